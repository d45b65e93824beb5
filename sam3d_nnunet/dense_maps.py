"""Dense prompts as label maps: a previous mask, scribbles and boxes, one map each.

An array of dense prompts is (..., 3, D, H, W) int16 with the channels `MASK`, `SCRIBBLE`, `BOX`. A voxel's value k says
"label k" (0: background), `NOTHING` that nothing was said about it. The network reads them, `prompts` draws them.
"""

MASK, SCRIBBLE, BOX = range(3)
KINDS = 3
NOTHING = -1
