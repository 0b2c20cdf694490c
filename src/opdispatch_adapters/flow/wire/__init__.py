"""Flow's messages and stubs, generated from ``flow.proto`` by ``make stubs``; the rest of the package imports them from
here and never edits them."""
