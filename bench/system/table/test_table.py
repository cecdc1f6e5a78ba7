"""python3 -B -m unittest discover -s bench/system/table"""
import importlib.machinery
import importlib.util
import json
import os
import unittest
import unittest.mock

import driver
import page
import peers
import rows


def result(impl, topo, rep, **figures):
    """One implementation in one round."""
    return {"impl": impl, "topo": topo, "rep": rep, "m": figures or None}


def run(*results, kind="main", offload="on"):
    """One run of the harness."""
    return {"kind": kind, "offload": offload, "results": list(results), "errors": {}}


def find(name, against):
    """The row with this name and reference."""
    return next(row for row in rows.ROWS if row.name == name and row.label() == against)


def tcp(value):
    """The same throughput in all four ways."""
    return dict.fromkeys(rows.TCP, value)


class Delivered(unittest.TestCase):
    """The iperf3 that stands before the real one."""

    def setUp(self):
        loader = importlib.machinery.SourceFileLoader("shim", str(driver.SHIM / "iperf3"))
        self.shim = importlib.util.module_from_spec(importlib.util.spec_from_loader("shim", loader))
        loader.exec_module(self.shim)

    def test_what_did_not_arrive_is_lost(self):
        """Of 1,000 packets 700 were on the way when the test ended, and 100 of the first 300 were missing."""
        end = {"sum": {"packets": 1000, "lost_packets": 100, "seconds": 2.0}, "sum_received": {"packets": 300, "lost_packets": 100}}
        total = self.shim.correct({"end": end})["end"]["sum"]
        self.assertEqual((total["packets"], total["lost_packets"], total["lost_percent"]), (1000, 800, 80.0))

    def test_what_is_no_report_of_udp_stays(self):
        for report in ({}, {"end": {}}, {"end": {"sum_sent": {"bytes": 1}, "sum_received": {"bytes": 1}}}, {"error": "unable to connect"}):
            self.assertEqual(self.shim.correct(json.loads(json.dumps(report))), report)


class Ratios(unittest.TestCase):
    def test_the_median_is_one_of_ratios_inside_rounds_and_not_of_medians(self):
        # Rounds on a machine that is busy in turns: the ratio is steady where the figures are not.
        of = run(*[result("/a/b/blueprint.sh", 2, rep, **tcp(8.0 * speed)) for rep, speed in enumerate((1, 2, 10))],
                 *[result("wireguard-go", 2, rep, **tcp(1.0 * speed)) for rep, speed in enumerate((1, 2, 10))])
        answer = rows.judge(find("TCP, 2 nodes", "wireguard-go"), of)
        self.assertEqual((answer["value"], answer["rounds"], answer["verdict"]), (8.0, 3, rows.LEAST))

    def test_the_worst_metric_counts(self):
        mine = dict(tcp(10.0), tcp4_down_gbps=6.0)
        answer = rows.judge(find("TCP, 2 nodes", "wireguard-go"),
                            run(result("blueprint", 2, 0, **mine), result("wireguard-go", 2, 0, **tcp(1.0))))
        self.assertEqual((answer["value"], answer["metric"], answer["verdict"]), (6.0, "tcp4_down_gbps", rows.MISSED))

    def test_the_best_of_two_is_taken_in_every_round(self):
        row = find("daemon CPU per 64 B packet, 2 nodes", "best of boringtun and gotatun")
        figure = dict.fromkeys(rows.UDP_CPU, 3.0)
        peers_of = [("boringtun", 0, 10.0), ("gotatun", 0, 20.0), ("boringtun", 1, 40.0), ("gotatun", 1, 5.0)]
        of = run(*[result("blueprint", 2, rep, **figure) for rep in (0, 1)],
                 *[result(name, 2, rep, **dict.fromkeys(rows.UDP_CPU, value)) for name, rep, value in peers_of])
        answer = rows.judge(row, of)
        self.assertAlmostEqual(answer["min"], 0.3)
        self.assertAlmostEqual(answer["max"], 0.6)
        self.assertEqual(answer["verdict"], rows.LEAST)

    def test_the_best_peer_is_neither_the_probe_nor_no_tunnel(self):
        row = find("ping p99 under one TCP stream", "best peer")
        of = run(result("blueprint", 2, 0, load_p99_us=50), result("plain", 2, 0, load_p99_us=1),
                 result("probe", 2, 0, load_p99_us=2), result("openvpn", 2, 0, load_p99_us=100),
                 result("gotatun", 2, 0, load_p99_us=200))
        self.assertEqual(rows.judge(row, of)["value"], 0.5)

    def test_one_retransmit_is_too_many(self):
        row = find("TCP retransmits", "-")
        none, some = dict.fromkeys(rows.RETRANSMITS, 0), dict.fromkeys(rows.RETRANSMITS, 1)
        self.assertEqual(rows.judge(row, run(result("blueprint", 2, 0, **none)))["verdict"], rows.MET)
        self.assertEqual(rows.judge(row, run(result("blueprint", 3, 0, **some)))["verdict"], rows.MISSED)


class Absence(unittest.TestCase):
    def test_a_missing_peer_is_named_and_breaks_no_promise(self):
        of = run(result("blueprint", 2, 0, **tcp(1.0)))
        answer = rows.judge(find("TCP, 2 nodes", "gotatun"), of)
        self.assertEqual((answer["verdict"], answer["why"]), (rows.UNKNOWN, "gotatun missing"))

    def test_of_two_peers_the_one_that_is_there_counts_and_the_other_is_named(self):
        row = find("UDP 64 B delivered, 2 nodes", "best of boringtun and gotatun")
        of = run(result("blueprint", 2, 0, **dict.fromkeys(rows.UDP, 3.0)), result("gotatun", 2, 0, **dict.fromkeys(rows.UDP, 1.0)))
        answer = rows.judge(row, of)
        self.assertEqual((answer["value"], answer["absent"]), (3.0, ["boringtun"]))
        self.assertIn("without boringtun", page.cell(answer))

    def test_what_we_could_not_do_is_missed_and_not_left_out(self):
        row = find("any throughput, 2 nodes and relay", "probe")
        full = {**tcp(1.0), **dict.fromkeys(rows.UDP, 1.0)}
        of = run(result("blueprint", 2, 0, **full), result("probe", 2, 0, **full),
                 result("blueprint", 3, 0), result("probe", 3, 0, **full))
        answer = rows.judge(row, of)
        self.assertEqual(answer["verdict"], rows.MISSED)
        self.assertEqual(len(answer["lost"]), len(full))

    def test_what_was_not_run_is_not_kept(self):
        empty = run(result("wireguard-go", 2, 0, **tcp(1.0)))
        table = rows.verdicts([empty], {})
        self.assertFalse(rows.is_kept(table))
        self.assertEqual(len(table), len(rows.ROWS) + len(rows.FIGURES))
        self.assertIn("not measured: blueprint was not run", page.promises(table, ["on"]))


class Everything(unittest.TestCase):
    def good(self):
        """A run in which every promise is kept."""
        mine = {**tcp(10.0), **dict.fromkeys(rows.UDP, 10.0), **dict.fromkeys(rows.TCP_CPU, 0.01),
                **dict.fromkeys(rows.UDP_CPU, 0.01), **dict.fromkeys(rows.RETRANSMITS, 0), "idle_p50_us": 1, "load_p99_us": 1,
                "rss_hub_MB": 10, "foreign_cpu_pct": 2}
        peer = {**tcp(1.0), **dict.fromkeys(rows.UDP, 1.0), **dict.fromkeys(rows.TCP_CPU, 1.0),
                **dict.fromkeys(rows.UDP_CPU, 1.0), "idle_p50_us": 10, "load_p99_us": 10}
        names = ["wireguard-go", "boringtun", "gotatun", "probe"]
        both = [result("blueprint", topo, 0, **mine) for topo in (2, 3)]
        both += [result(name, topo, 0, **peer) for topo in (2, 3) for name in names]
        carriers = [result(name, 2, 0, **tcp(10.0)) for name in (rows.OURS, rows.QUIC, rows.TLS)]
        figures = {row.figure: row.target for row in rows.FIGURES}
        return [run(*both), run(*carriers, kind="carriers")], figures

    def test_all_promises_can_be_kept_and_each_can_be_broken(self):
        runs, figures = self.good()
        self.assertTrue(rows.is_kept(rows.verdicts(runs, figures)))
        for name, value in figures.items():
            row = next(row for row in rows.FIGURES if row.figure == name)
            worse = value / 10 if row.better == rows.HIGHER else value * 10
            self.assertFalse(rows.is_kept(rows.verdicts(runs, {**figures, name: worse})), name)

    def test_the_page_names_everything_and_keeps_what_people_wrote(self):
        runs, figures = self.good()
        record = {"date": "2026-01-02", "machine": {"kernel": "6.1", "cpu": "A | B", "cpus": 2, "memory_gb": 8},
                  "settings": {"reps": 1, "secs": 1, "tun_mtu": 1420, "veth_mtu": 1500}, "runs": runs,
                  "peers": [{"name": "gotatun", "version": "0.10.2"}, {"name": "nebula", "missing": "not installed"}],
                  "system": [{"name": "peers.memory", "unit": "MB", "value": 1.0}]}
        text = page.generate(record, rows.verdicts(runs, figures))
        for part in ("2026-01-02", "6.1", "A / B", "0.10.2", "MISSING: not installed", "relay, main", "2 nodes, carriers"):
            self.assertIn(part, text)
        first = page.merge("", text)
        written = first.replace("# Performance", "# Performance, with a word") + "\nA last word.\n"
        again = page.merge(written, text.replace("2026-01-02", "2026-02-03"))
        self.assertIn("with a word", again)
        self.assertTrue(again.endswith("A last word.\n"))
        self.assertIn("2026-02-03", again)
        self.assertNotIn("2026-01-02", again)

    def test_netstack_is_compared_with_tun_of_the_same_run(self):
        runs, _ = self.good()
        shares = rows.netstack_figures(runs, {"netstack.tcp1_up": 2.5})
        self.assertEqual([(share["name"], share["value"]) for share in shares], [("netstack.tcp1_up_of_tun", 0.25)])
        self.assertEqual(rows.netstack_figures([], {"netstack.tcp1_up": 2.5}), [])

    def test_a_round_that_failed_shows_with_its_reason(self):
        of = run(result("/x/blueprint.sh", 3, 1), kind="main")
        of["errors"]["blueprint 3 1"] = "no ping through the tunnel"
        self.assertIn("no ping through the tunnel", page.failures({"runs": [of]}))

    def test_numbers_are_as_long_as_they_are_precise(self):
        self.assertEqual([page.short(value) for value in (0, 0.1234, 1.5, 12.34, 1234.4, None)],
                         ["0", "0.123", "1.50", "12.3", "1234", "-"])


class Command(unittest.TestCase):
    def test_a_quick_run_writes_no_page(self):
        quick, whole = driver.arguments(["--quick"]), driver.arguments([])
        self.assertEqual((quick.reps, quick.offload, quick.page), (1, ["on"], None))
        self.assertEqual((whole.reps, whole.offload), (3, ["on", "wire"]))
        self.assertTrue(whole.page.endswith("docs/performance.md"))

    def test_without_a_harness_it_says_what_to_give(self):
        with self.assertRaisesRegex(driver.Failed, "--harness DIR or WGBENCH"):
            driver.harness_folder(driver.arguments(["--harness", "/nowhere"]))
        with unittest.mock.patch.dict(os.environ, clear=True):
            with self.assertRaisesRegex(driver.Failed, "--harness DIR or WGBENCH"):
                driver.harness_folder(driver.arguments([]))

    def test_a_program_that_is_not_there_is_missing(self):
        with self.assertRaises(peers.Missing):
            peers.run(["/nowhere/program"])


if __name__ == "__main__":
    unittest.main()
