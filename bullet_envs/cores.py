"""How many cores there are for this process."""


def count_cores(physical: bool = False) -> int:
    """Return how many cores this process may use, by its affinity and its cgroup's quota.

    Args:
        physical: count the two halves of a core that runs two threads as one.
    """
    import loky  # late, since only some need it

    return int(loky.cpu_count(only_physical_cores=physical))
