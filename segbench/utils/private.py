"""Check that no other user could have written a file before it is loaded as code."""

import os
import stat
from pathlib import Path


def why_insecure(path: Path) -> str | None:
    """Returns why another user could have written or replaced a file.

    Args:
        path: An existing file or folder.

    Returns:
        A description of the insecure part of the path; None if this user or root owns all parts and nobody else
        may write to them. World-writable folders with the sticky bit, such as /tmp, count as secure.
    """
    if not hasattr(os, "geteuid"):  # Windows, where folders of a user are closed to others
        return None
    whole, real = path.absolute(), path.resolve()  # both links and their targets
    for part in dict.fromkeys([whole, *whole.parents, real, *real.parents]):
        about = part.lstat()
        if about.st_uid not in (0, os.geteuid()):
            return f"{part} belongs to another user"
        if stat.S_ISLNK(about.st_mode) or (stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX):
            continue
        if about.st_mode & stat.S_IWOTH:
            return f"{part} is writable by everyone"
        if about.st_mode & stat.S_IWGRP and not _is_own_group(about.st_gid, about.st_uid):
            return f"{part} is writable by a group"
    return None


def _is_own_group(gid: int, uid: int) -> bool:
    """Returns whether a group has the user as its only member, as most systems create for each user."""
    import grp
    import pwd

    if gid == 0:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and not set(group.gr_mem) - {user.pw_name}
