"""One process trains or validates a fold, since two would write the same files."""

from contextlib import ExitStack
from pathlib import Path
from weakref import WeakValueDictionary, finalize

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import remove_left
from sam3d_nnunet.processes import GRACE, shared_lock

LOCK = "lock"
"""Name of the locked file in a fold's folder. It stays there; whether it is locked decides."""


class FoldClaim:
    """As long as it exists, no other process can claim the same fold. The system ends the claim of a killed process.

    Where the file system locks nothing, claims are not refused.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the fold; made if it does not exist.

        Raises:
            SAM3DError: another process has claimed it.
        """
        held = ExitStack()
        finalize(self, held.close)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(shared_lock(folder / LOCK, wait=GRACE))  # threads of a killed process may still end
        except BlockingIOError as e:
            raise SAM3DError(
                f"{folder} is in use: another process trains or validates this fold, on this or another computer. Wait "
                "until it has ended, or stop it."
            ) from e
        except OSError:  # if nothing can be written here, what is written next tells why
            return
        for used in (folder, *folder.glob("validation*/")):
            remove_left(used, seconds=0)  # before anything is written: it may be what fills the disk


_CLAIMS: WeakValueDictionary[Path, FoldClaim] = WeakValueDictionary()


def claim_fold(folder: Path) -> FoldClaim:
    """The claim of this process on a fold. All its trainers of the fold share it.

    Raises:
        SAM3DError: another process trains or validates the fold.
    """
    claim = _CLAIMS.get(folder)
    if claim is None:
        claim = _CLAIMS[folder] = FoldClaim(folder)
    return claim
