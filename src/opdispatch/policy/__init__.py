"""The policies of a rollout: which racks, in what order, cut how, stopped when, and what to do about busy ones.

One policy, one module; ordering alone knows another, for the seeded hash that selection uses too.  All arithmetic is
on integers.
"""
