"""The page of `bench/proxy`, made of figures that are known."""
import unittest

import report


def figures(cpu, rate, p99):
    """What one proxy has in one round."""
    kind = {"rate": rate, "cpu_us": cpu, "p50": 1.0, "p99": p99}
    half = {"rate": rate / 2, "cpu_us": cpu, "p50": 0.5, "p99": p99}
    return {"h1": kind, "h1_half": half, "h2": kind, "h2_half": half, "bulk": {"gbit": 4.0, "cpu": 1.0}, "idle_kib": 10.0}


def record(ours):
    """One round of all; ours takes so many microseconds of a processor for a request."""
    others = {name: figures(20.0, 40_000, 1.0) for name in ("nginx", "nginx, auth_request", "haproxy")}
    sides = {"direct": figures(10.0, 60_000, 0.5), **others, "blueprint": figures(ours, 30_000, 1.2)}
    settings = {"reps": 1, "secs": 1, "connections": 64, "idle": 10}
    return {"date": "2026-01-01", "machine": {"kernel": "6", "cpus": 2}, "settings": settings, "versions": {}, "rounds": [sides]}


class Report(unittest.TestCase):
    """Verdicts follow from figures."""

    def test_what_is_cheap_enough_is_kept(self):
        """25 us against 20 are 0.8 of the requests per processor second."""
        text, kept = report.page(record(25.0))
        self.assertTrue(kept, text)
        self.assertIn("**0.800**", text)

    def test_what_is_too_dear_is_missed(self):
        """So is what was not measured at all."""
        text, kept = report.page(record(26.0))
        self.assertFalse(kept)
        self.assertIn("MISSED", text)
        silent = record(20.0)
        del silent["rounds"][0]["blueprint"]["idle_kib"]
        self.assertFalse(report.page(silent)[1])

    def test_ratios_are_those_of_their_rounds(self):
        """A machine that slows down between rounds changes no ratio."""
        two = record(20.0)
        two["rounds"].append({name: {**side, "h1": {**side["h1"], "cpu_us": side["h1"]["cpu_us"] * 3}} for name, side in two["rounds"][0].items()})
        self.assertEqual(report.ratio(two, "nginx", "blueprint", "h1", "cpu_us"), 1.0)


if __name__ == "__main__":
    unittest.main()
