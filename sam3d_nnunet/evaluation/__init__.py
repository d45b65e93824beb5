"""`sam3d evaluate`: prompts drawn once, prediction under a protocol, metrics, and the folder of results."""
