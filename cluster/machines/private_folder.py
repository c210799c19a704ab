"""A folder for temporary files that no other user of the machine can enter.

Ray makes its temporary folders, with sockets and logs, writable for every user. Inside a folder that only this user
can enter, that does no harm.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from cluster.errors import InputError

MAX_RAY_FOLDER = 43  # characters; Ray's sockets lie inside, and Linux limits the path of a socket to 107


def private_folder() -> Path:
    """The folder `listwise-<user id>` in the temporary folder, for this user alone; it is made if it is absent.

    Raises:
        InputError: it is no folder, belongs to another user, or other users can enter it.
    """
    folder = Path(tempfile.gettempdir()) / f"listwise-{os.getuid()}"
    with suppress(FileExistsError):  # what is there is looked at
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(
            f"{folder}: expected a folder that belongs to you alone (mode 700), found mode "
            f"{stat.S_IMODE(status.st_mode):o} of user {status.st_uid}. Remove it, or set TMPDIR to another folder."
        )
    return folder


def keep_caches_private() -> None:
    """Sets where vLLM and torch keep compiled code that they load again, unless the environment says it already.

    Torch's own place is a folder in the temporary folder whose name anybody can predict and prepare.

    Raises:
        InputError: as `private_folder`.
    """
    for name, inner in (("VLLM_CACHE_ROOT", "vllm"), ("TORCHINDUCTOR_CACHE_DIR", "torchinductor")):
        if name not in os.environ:
            os.environ[name] = str(private_folder() / inner)


def ray_folder() -> str | None:
    """The folder for sockets, logs and spilled objects of a Ray started here, or None where RAY_TMPDIR names one.

    Raises:
        InputError: other users can enter the private folder, or its path is too long for Ray's sockets.
    """
    if "RAY_TMPDIR" in os.environ:
        return None
    folder = str(private_folder() / "ray")
    if len(folder) > MAX_RAY_FOLDER:
        raise InputError(
            f"TMPDIR: {folder} has {len(folder)} characters, and Ray's sockets allow {MAX_RAY_FOLDER}. Set TMPDIR to a "
            "folder with a shorter path."
        )
    return folder


def share_as_folder(folder: Path) -> None:
    """Gives all files in a folder and its subfolders the read and write permissions of the folder itself.

    The umask decided the folder's permissions. safetensors ignores the umask: only the owner can read its files.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
