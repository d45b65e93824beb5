"""World, image, grid and boxes: one place for each formula."""
