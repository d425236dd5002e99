"""The operator's command: what somebody does with a manager, from a terminal or a script."""
