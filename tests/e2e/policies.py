"""Balance policies by name, for tests that run under each of them: services[].balance for a service of so many hosts."""


def policy(name, hosts_n):
    return {
        "round_robin": "round_robin",
        "weighted": {"policy": "weighted", "weights": [n + 1 for n in range(hosts_n)]},
        "least_outstanding": "least_outstanding",
        "power_of_two": "power_of_two",
        "consistent_hash": {"policy": "consistent_hash", "hash": {"by": "connection", "slots": 251},
                            "ejection": {"consecutive": 3, "time": "200ms", "time_max": "1s"}},
        # All that stands on top of a policy, with times so short that much of it happens.
        "everything": {"policy": "power_of_two", "sticky": {"by": "connection", "entries": 8}, "locality": True, "locality_spill": 2,
                       "subset": 1, "slow_start": "500ms",
                       "ejection": {"consecutive": 3, "percent": 50, "deviation": 1900, "members_min": 2, "calls_min": 5,
                                    "interval": "100ms", "time": "100ms", "time_max": "1s", "share_max": 100}},
    }[name]


def take_option(argv, default):
    """Removes `--balance NAME` from a command line; the name."""
    if "--balance" not in argv:
        return default
    at = argv.index("--balance")
    name = argv[at + 1]
    del argv[at:at + 2]
    return name
