"""Planning: the planner, the settings in a plan, recipes."""
