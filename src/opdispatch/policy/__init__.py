"""The policies of a rollout: which racks, in what order, cut how, stopped when, and what to do about busy ones.

One policy, one module; none knows another.  All arithmetic is on integers.
"""
