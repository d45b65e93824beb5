"""Find image files that are cut off or changed, which libraries of images read without an error."""

import gzip
import zlib
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError

BLOCK = 1 << 20  # bytes that are decompressed at once
GZIP = b"\x1f\x8b"


def refuse_damaged(file: str | Path) -> None:
    """Refuse an image file that is cut off or changed.

    Raises:
        SAM3DError: names the file, and says what is wrong with it.
    """
    path = Path(file)
    try:
        with path.open("rb") as stream:
            if stream.read(2) != GZIP:
                return
            stream.seek(0)
            with gzip.open(stream) as content:
                while content.read(BLOCK):
                    pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise SAM3DError(f"{file} is damaged: {e}. Get it again.") from e
    except OSError as e:
        raise SAM3DError(f"{file} can't be read: {e.strerror or e}.") from e
