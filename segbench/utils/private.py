"""Files that nobody else could have put there: what is loaded as code must be such a one."""

import os
import stat
from pathlib import Path


def why_open(path: Path) -> str | None:
    """Finds out whether another user could have written a file, or put another in its place.

    Args:
        path: A file or folder that is there.

    Returns:
        Which part of the path is whose, in words; None where all belongs to this user or to root, and nobody
        else may write. A folder for everybody in which all keep to their own, as /tmp is, counts as safe.
    """
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are closed to others
        return None
    whole, real = path.absolute(), path.resolve()  # links are looked at as well as what they lead to
    for part in dict.fromkeys([whole, *whole.parents, real, *real.parents]):
        about = part.lstat()
        if about.st_uid not in (0, os.geteuid()):
            return f"{part} belongs to another user"
        if stat.S_ISLNK(about.st_mode) or (stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX):
            continue
        if about.st_mode & stat.S_IWOTH:
            return f"everybody may write to {part}"
        if about.st_mode & stat.S_IWGRP and not _is_own_group(about.st_gid, about.st_uid):
            return f"a group may write to {part}"
    return None


def _is_own_group(gid: int, uid: int) -> bool:
    """Tells whether a group is the user's alone, as most systems make one for each user."""
    import grp
    import pwd

    if gid == 0:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and not set(group.gr_mem) - {user.pw_name}
