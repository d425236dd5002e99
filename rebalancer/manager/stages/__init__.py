"""The stages of a job's pipeline, in the order objects pass them."""
