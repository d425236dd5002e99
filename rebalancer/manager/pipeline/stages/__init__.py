"""This package has the stages of a job's pipeline, one module each."""
