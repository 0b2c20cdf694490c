"""Conformance suites: how somebody who writes an adapter finds out whether it means what the core means.

``opdispatch_adapters.testing.stores`` holds the one for stores.  A test module needs four lines::

    from hypothesis import settings
    from opdispatch_adapters.testing.stores import store_machine

    TestMyStore = store_machine(lambda clock: MyStore(clock=clock)).TestCase
    TestMyStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

Hypothesis is imported there and nowhere else; install ``opdispatch[testing]`` for it.
"""
