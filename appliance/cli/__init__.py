"""The operator's commands, over the API only."""
