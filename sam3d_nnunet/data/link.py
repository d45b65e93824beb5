"""One file in two places."""

import os
import shutil
from pathlib import Path


def link_or_copy(file: Path, link: Path) -> bool:
    """Make `link` the same file, or a copy of it.

    A hard link outlives moves and removals of either folder. Where the file lies on another file system a symbolic link
    names it by its absolute path; where there are no links either it is copied.

    Returns:
        Whether it is a link.
    """
    file = file.resolve()
    for make in (os.link, os.symlink):
        try:
            make(file, link)
            return True
        except OSError:
            pass
    shutil.copyfile(file, link)
    return False
