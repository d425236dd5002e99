"""This package asks other storage nodes for objects, by one of two engines with one behaviour."""
