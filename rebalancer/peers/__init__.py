"""The services this program talks to, one module each."""
