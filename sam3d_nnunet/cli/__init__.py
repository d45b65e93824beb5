"""The command `sam3d`: one file a group of commands. They parse, call and print."""
