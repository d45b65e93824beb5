"""The planner, and the settings it writes into a plan."""
