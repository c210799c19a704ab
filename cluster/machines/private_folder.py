"""A folder for temporary files that no other user of the machine can enter.

Ray makes its own temporary folders writable for everybody, sockets and logs included. Below a folder that only we can
enter that does no harm.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cluster.errors import InputError

LONGEST = 43  # characters of Ray's folder: the names of its sockets end at 107


def private_folder() -> Path:
    """The folder `listwise-<user id>` in the temporary folder, made for this user alone.

    Raises:
        InputError: somebody else made it, or lets others in.
    """
    folder = Path(tempfile.gettempdir()) / f"listwise-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(
            f"{folder}: expected a folder that belongs to you alone (mode 700), found mode "
            f"{stat.S_IMODE(found.st_mode):o} of user {found.st_uid}. Remove it, or set TMPDIR to another place."
        )
    return folder


def ray_folder() -> str | None:
    """Where a Ray that is started here keeps sockets, logs and spilled objects; None: where RAY_TMPDIR says.

    Raises:
        InputError: the private folder is not private, or its name is too long for Ray's sockets.
    """
    if "RAY_TMPDIR" in os.environ:
        return None
    folder = str(private_folder() / "ray")
    if len(folder) > LONGEST:
        raise InputError(
            f"TMPDIR: {folder} has {len(folder)} characters, and Ray's sockets allow {LONGEST}. Set TMPDIR to a folder "
            "with a shorter name."
        )
    return folder


def share_as_folder(folder: Path) -> None:
    """Gives the files directly and deeper in a folder the modes that the folder's own, which the umask made, allow.

    safetensors writes files that only their owner can read, whatever the umask.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
