//! What is printed of some dumps. `why` is what an engineer reads off the rules, written before fwc was asked; `says` is what of
//! it has to be there word for word, so that a snapshot cannot be blessed against it.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::{dumps, fwc};

/// A question about a dump or two.
struct Shown {
    name: &'static str,
    /// The dumps, each with the short name that it gets here.
    dumps: &'static [(&'static str, &'static str)],
    /// Other files beside them.
    beside: &'static [(&'static str, &'static str)],
    command: &'static str,
    status: i32,
    why: &'static str,
    says: &'static [&'static str],
}

pub fn trials() -> Vec<Trial> {
    let trial = |shown: &'static Shown| Trial::test(shown.name, move || shown.assert());
    SHOWN.iter().map(trial).collect()
}

impl Shown {
    fn assert(&self) -> Result<(), Failed> {
        let folder = tempfile::tempdir()?;
        for (name, dump) in self.dumps {
            fs::copy(dumps().join(dump), folder.path().join(name))?;
        }
        for (name, text) in self.beside {
            fs::write(folder.path().join(name), text)?;
        }
        let words: Vec<&str> = self.command.split(' ').collect();
        let (status, out, err) = fwc(folder.path(), &words);
        let printed = format!("$ fwc {}\n{out}{err}", self.command);
        if status != self.status {
            return Err(format!("ends with {status}:\n{printed}").into());
        }
        for words in self.says {
            if !printed.contains(words) {
                return Err(format!("does not say `{words}`:\n{printed}").into());
            }
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_description(self.why);
        settings.bind(|| insta::assert_snapshot!(self.name, printed));
        Ok(())
    }
}

const DOCKER: &str = "c0m4r.iptables-analyzer__testdata_docker.iptables-save.v4";
const MOBY_NAT: &str = "moby__daemon_libnetwork_drivers_bridge_internal_iptabler_testdata_TestIptabler_hairpin=false_internal=false_icc=true_masq=true_snat=true_gwm=nat_bindlh=false_iptables.golden.v4";
const MOBY_ROUTED: &str = "moby__daemon_libnetwork_drivers_bridge_internal_iptabler_testdata_TestIptabler_hairpin=false_internal=false_icc=true_masq=true_snat=true_gwm=routed_bindlh=true_iptables.golden.v4";
const K3S: &str = "index-22449877860__k3s_iptables-save-c.v4";
const FIREWALLD: &str = "iptables-git__iptables_tests_shell_testcases_firewalld-restore_dumps_ipt-save-completed.txt.v4";
const SHOREWALL: &str =
    "shorewall-nft__packages_shorewall-nft_tests_fixtures_ref-ha-minimal_iptables.txt.v4";
const UFW: &str = "OnlineSolutionsGroupBV.DropIPsByCountry__iptables.txt.v4";

const SHOWN: &[Shown] = &[
    Shown {
        name: "docker_published_port",
        dumps: &[("docker.v4", DOCKER)],
        beside: &[],
        command: "explain --rules docker.v4 --in eth0 --out docker0 --source 203.0.113.9 --destination 198.51.100.1 --service 8080/tcp",
        status: 0,
        why: "The trap of published ports: INPUT drops 8080 (line 29), yet the packet never sees INPUT. Where the address is one of \
            this host, line 14 sends it to 172.17.0.2:80, and in FORWARD it goes through DOCKER-USER and the isolation, which \
            return, to DOCKER, where line 37 accepts it. Where the address is none of this host's nothing is translated, and \
            FORWARD's policy drops it.",
        says: &[
            "ACCEPT, to another address: DNAT --to-destination 172.17.0.2:80",
            "14:   -A DOCKER ! -i docker0",
            "37:   -A DOCKER -d 172.17.0.2/32",
            "decided by the policy of FORWARD",
        ],
    },
    Shown {
        name: "docker_container_from_outside",
        dumps: &[("docker.v4", MOBY_NAT)],
        beside: &[],
        command: "explain --rules docker.v4 --in eth0 --out br-dummy --destination 192.168.0.2 --service http",
        status: 0,
        why: "Who sends to the container's own address from another device is stopped in raw PREROUTING (line 4), long before the \
            accept of line 16: a published port is reached by the host's address only.",
        says: &[
            "  DROP\n",
            "raw PREROUTING\n        4: -A PREROUTING -d 192.168.0.2/32 ! -i br-dummy -j DROP",
        ],
    },
    Shown {
        name: "docker_routed_instead_of_nat",
        dumps: &[("nat.v4", MOBY_NAT), ("routed.v4", MOBY_ROUTED)],
        beside: &[],
        command: "diff --packets nat.v4 routed.v4",
        status: 2,
        why: "A network goes from NAT to routed: the container's address may be reached from outside now (raw no longer drops it): \
            its port 80 and ICMP (line 17 of the new rules); what is sent to other addresses by way of the bridge's own chains stays. Port \
            8080 of the host is no longer translated, and what leaves from 192.168.0.0/24 keeps its source instead of \
            192.168.123.0. What the new rules do to 127.0.0.1 from a wire no kernel shows by itself.",
        says: &[
            "from !br-dummy, to br-dummy, service icmp, state !(established or related)",
            "closed in FORWARD: to 192.168.0.2:80, accept -> drop",
            "redirected in FORWARD: accept, from 192.168.123.0 -> accept",
            "(only where route_localnet is on)",
        ],
    },
    Shown {
        name: "kubernetes_service_without_endpoints",
        dumps: &[("k3s.v4", K3S)],
        beside: &[],
        command: "explain --rules k3s.v4 --hook output --destination 10.43.0.10 --service 53/udp",
        status: 0,
        why: "Why does DNS fail on this node? kube-dns has no endpoints: nat translates nothing, and line 96 answers with an error.",
        says: &[
            "REJECT with icmp-port-unreachable",
            "96:   -A KUBE-SERVICES",
        ],
    },
    Shown {
        name: "kubernetes_service",
        dumps: &[("k3s.v4", K3S)],
        beside: &[],
        command: "explain --rules k3s.v4 --hook output --destination 10.43.0.1 --service https",
        status: 0,
        why: "The API service goes to 10.0.20.5:6443 (line 47). The node's own packets are marked by lines 50 and 42 and so \
            masqueraded by line 45; those of pods, 10.42.0.0/16, are not, as line 43 returns. Packets arrive without a mark, so \
            that comes first; what somebody marked with 0x8000 is dropped by line 89.",
        says: &[
            "ACCEPT, to another address: DNAT --to-destination 10.0.20.5:6443, from another address: MASQUERADE --random-fully\n    source !10.42.0.0/16",
            "43:   -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "DROP, to another address: DNAT --to-destination 10.0.20.5:6443\n    mark 0x8000/0x8000",
        ],
    },
    Shown {
        name: "libvirt_guest_from_outside",
        dumps: &[(
            "libvirt.v4",
            "index-13146377519__kube_libvirt_flannel_iptables-save.v4",
        )],
        beside: &[],
        command: "explain --rules libvirt.v4 --in eth0 --out virbr0 --destination 192.168.122.10 --service ssh",
        status: 0,
        why: "A guest behind libvirt's NAT is not reached from outside: LIBVIRT_FWI rejects what is not an answer (line 69). Kubernetes on \
            the same host accepts before that whatever has its mark 0x4000 (line 65); nothing here sets it.",
        says: &[
            "REJECT with icmp-port-unreachable\n    mark 0x0/0x4000\n    decided by 69:",
            "ACCEPT\n    mark 0x4000/0x4000\n    decided by 65:",
        ],
    },
    Shown {
        name: "firewalld_zone",
        dumps: &[("firewalld.v4", FIREWALLD)],
        beside: &[],
        command: "explain --rules firewalld.v4 --in enp3s0",
        status: 0,
        why: "The zone public lets ssh, ICMP and mDNS to its group in (lines 148 to 150) and rejects the rest (line 121). The dozen \
            chains of the other tables are empty: nothing happens there.",
        says: &[
            "REJECT with icmp-host-prohibited",
            "service icmp or 22/tcp",
            "destination 224.0.0.251, service 5353/udp",
            "raw PREROUTING, mangle PREROUTING, nat PREROUTING, mangle INPUT: no rule does anything",
        ],
    },
    Shown {
        name: "shorewall_port_forward",
        dumps: &[("shorewall.v4", SHOREWALL)],
        beside: &[],
        command: "explain --rules shorewall.v4 --in eth0 --out eth1 --destination 192.0.2.1 --service 8080/tcp",
        status: 0,
        why: "8080 goes to the web server's port 80 (line 76) and is judged as that: net_frwd, net2loc, line 48 accepts. Its source \
            stays: line 77 is for what leaves by eth0.",
        says: &[
            "ACCEPT, to another address: DNAT --to-destination 192.0.2.20:80",
            "48:     -A net2loc",
            "nat POSTROUTING: no rule matches",
        ],
    },
    Shown {
        name: "shorewall_matrix",
        dumps: &[("shorewall.v4", SHOREWALL)],
        beside: &[("where", "eth1 = 192.0.2.0/24\neth0 = 0.0.0.0/0\n")],
        command: "matrix --rules shorewall.v4 --interfaces where --service http",
        status: 0,
        why: "loc may go anywhere outside (line 59), the net reaches the web server alone (line 48), and neither is routed back to where \
            it came from (lines 38 and 40 name the other device).",
        says: &[
            "0  all but 192.0.2.0/24",
            "2  192.0.2.20\n",
            "0 may reach 2\n  1 may reach 0\n  2 may reach 0",
        ],
    },
    Shown {
        name: "shorewall_idle",
        dumps: &[("shorewall.v4", SHOREWALL)],
        beside: &[],
        command: "check --rules shorewall.v4",
        status: 0,
        why: "OUTPUT accepts everything (line 32), so line 31 is not needed, as lines 57 and 58 are not before 59; and nobody jumps to \
            fw2net and fw2loc: what they drop is let out.",
        says: &[
            "no packet reaches 2 chains",
            "`fw2loc`, `fw2net`",
            "they are lines 57, 58",
        ],
    },
    Shown {
        name: "router_port_forward",
        dumps: &[("router.v4", "FlorinAndrei.router__etc_iptables_rules.v4.v4")],
        beside: &[],
        command: "explain --rules router.v4 --in eth0 --out br0 --service 2212/tcp",
        status: 0,
        why: "Line 29 sends 2212 to ssh of 192.168.1.1. FORWARD has only an empty chain and the policy ACCEPT: it is let through.",
        says: &[
            "ACCEPT, to another address: DNAT --to-destination 192.168.1.1:22",
            "29: -A PREROUTING",
            "no rule decides: policy ACCEPT",
        ],
    },
    Shown {
        name: "dmz_web_server",
        dumps: &[("corp.v4", "billandriano.iptables-ids-corp__rules.v4.v4")],
        beside: &[],
        command: "explain --rules corp.v4 --in eth0 --out eth2 --destination 192.168.31.41 --service http",
        status: 0,
        why: "The web server of the DMZ is published by line 55 and accepted by line 37, for SYN alone: mangle drops new connections that do \
            not begin with a plain SYN (line 9), and those with a strange segment size (line 10), which the packet's options tell.",
        says: &[
            "ACCEPT, to another address: DNAT --to-destination 10.1.0.3\n    tcp-flags syn/fin,syn,rst,psh,ack,urg where not `-m tcpmss ! --mss 536:65535`",
            "decided by 37:",
        ],
    },
    Shown {
        name: "istio_transparent_proxy",
        dumps: &[(
            "istio.v4",
            "istio__tools_istio-iptables_pkg_capture_testdata_inbound-ports-tproxy.golden_part1_iptables.v4",
        )],
        beside: &[],
        command: "explain --rules istio.v4 --in eth0 --service 32000/tcp --mark 0",
        status: 0,
        why: "New connections to the listed port go to Envoy's port 15006 without a change of address (lines 8, 10, 7), marked 1337.",
        says: &[
            "10:   -A ISTIO_INBOUND",
            "7:     -A ISTIO_TPROXY",
            "mark 0x539",
        ],
    },
    Shown {
        name: "calico_unknown_workload",
        dumps: &[("calico.v4", "calico__felix_fv_cali-iptables-dump.txt.v4")],
        beside: &[],
        command: "explain --rules calico.v4 --in cali1234 --service https --mark 0",
        status: 0,
        why: "No workload is known on this node, so whatever comes in by a cali device is dropped as from an unknown interface \
            (cali-from-wl-dispatch), if the check of its return path has not dropped it before.",
        says: &["  DROP\n", "Unknown interface", "rpfilter"],
    },
    Shown {
        name: "ufw_ssh_from_its_admin",
        dumps: &[("ufw.v4", UFW)],
        beside: &[],
        command: "explain --rules ufw.v4 --in eth0 --source 78.46.150.145 --destination 198.51.100.1 --service ssh",
        status: 0,
        why: "One address may use ssh (line 11482). ufw-not-local stands before that: where the destination is none of this host's, and \
            no multicast or broadcast address, it is dropped (line 91).",
        says: &[
            "decided by 11482:",
            "decided by 91: -A ufw-not-local -j DROP",
            "addrtype destination LOCAL",
        ],
    },
    Shown {
        name: "ufw_matrix",
        dumps: &[("ufw.v4", UFW)],
        beside: &[],
        command: "matrix --rules ufw.v4 --chain INPUT --service http",
        status: 0,
        why: "The web is open to all but a block list of some 8,100 ranges: two classes, and a list that nobody reads is not printed twice.",
        says: &[
            "all other addresses",
            "0 may reach all\n  1 may reach nobody",
        ],
    },
    Shown {
        name: "bridged_containers_matrix",
        dumps: &[(
            "bridge.v4",
            "larsks.so-example-75357081-bridged-containers__rules.v4.v4",
        )],
        beside: &[],
        command: "matrix --rules bridge.v4 --service ssh",
        status: 0,
        why: "FORWARD accepts from and to 10.10.10.0/24 (lines 10, 11) and rejects the rest: two classes; containers reach all, and all \
            reach containers.",
        says: &[
            "0  all but 10.10.10.0/24",
            "0 may reach 1\n  1 may reach all",
        ],
    },
    Shown {
        name: "counters_matrix",
        dumps: &[(
            "router.v4",
            "retailnext.iptables_exporter__iptables_router.iptables-save.v4",
        )],
        beside: &[],
        command: "matrix --rules router.v4 --chain INPUT --service http",
        status: 0,
        why: "INPUT accepts all but what 10.10.10.0/24 sends, which reaches port 80 of 10.10.10.1 alone (lines 24, 25).",
        says: &[
            "2  10.10.10.1\n",
            "0 may reach all\n  1 may reach 2\n  2 may reach 2",
        ],
    },
    Shown {
        name: "freifunk_hosts",
        dumps: &[
            (
                "one.v4",
                "freifunk-bielefeld.server-config__etc_iptables_rules.v4.v4",
            ),
            ("two.v4", "ffulm.server-config__etc_iptables_rules.v4.v4"),
        ],
        beside: &[],
        command: "diff --packets one.v4 two.v4",
        status: 2,
        why: "The second has HTTPS and tinc (656) too, DNS and munin from the mesh (bat0), and no longer DNS for everybody. Neither asks for \
            the state, so what is invalid comes in as well; what is established did before.",
        says: &[
            "from !lo, service 443/tcp or 656/tcp, state !(established or related)",
            "from bat0, service 53/tcp or 4949/tcp",
            "from !(bat0 or lo), service 53/udp",
            "2 opened, 1 closed",
        ],
    },
    Shown {
        name: "candidate_hosts",
        dumps: &[
            (
                "one.v4",
                "batfish__networks_example_candidate_iptables_host1.iptables.v4",
            ),
            (
                "two.v4",
                "batfish__networks_example_candidate_iptables_host2.iptables.v4",
            ),
        ],
        beside: &[],
        command: "diff --packets one.v4 two.v4",
        status: 2,
        why: "The second no longer takes DNS queries, and no longer sends to 2.128.0.101.",
        says: &[
            "closed in INPUT: accept -> drop\n  service 53/udp",
            "closed in OUTPUT: accept -> drop\n  destination 2.128.0.101",
        ],
    },
    Shown {
        name: "pbx_idle",
        dumps: &[(
            "pbx.v4",
            "helipopolis.kvmpbx.mptsrv.com__etc_sysconfig_iptables.v4",
        )],
        beside: &[],
        command: "check --rules pbx.v4",
        status: 0,
        why: "Line 36 accepts NTP from everybody, so the 16 rules for time servers (43 to 58) do nothing; 127.0.0.1 is accepted on lo (7) and \
            dropped elsewhere (10), so lines 38 and 39 are not reached; 59 rejects what 60 rejects; 66 lies within 64. An echo reply or \
            an ICMP error never opens a connection: lines 18 to 20 are never met.",
        says: &[
            "they are lines 38, 39",
            "they are lines 43-58",
            "pbx.v4:59:1",
            "pbx.v4:66:1",
            "pbx.v4:18:1",
            "pbx.v4:19:1",
            "pbx.v4:20:1",
        ],
    },
    Shown {
        name: "game_server_idle",
        dumps: &[("game.v4", "donwiktorb.iptables-rules-brp__rules.v4.v4")],
        beside: &[],
        command: "check --rules game.v4",
        status: 0,
        why: "Line 79 is 68 once more, 148 and 149 are 147 and 146; `knock` returns (119) before it drops (120). The rate limits and the \
            spoof protection are chains that nobody jumps to: they protect nothing.",
        says: &[
            "game.v4:79:1",
            "game.v4:120:1",
            "game.v4:148:1",
            "game.v4:149:1",
            "`spoof`",
            "no packet reaches 12 chains",
        ],
    },
    Shown {
        name: "campus_idle",
        dumps: &[(
            "campus.v4",
            "mlopezs.TopologiaSegura_SegRedes__iptables-rules.v4",
        )],
        beside: &[],
        command: "check --rules campus.v4",
        status: 0,
        why: "Line 26 is 25 once more; 29 and 31 accept answers that line 21 has accepted.",
        says: &["campus.v4:26:1", "they are lines 29, 31", "2 warnings"],
    },
    Shown {
        name: "insecure_idle",
        dumps: &[(
            "open.v4",
            "c0m4r.iptables-analyzer__testdata_insecure.iptables-save.v4",
        )],
        beside: &[],
        command: "check --rules open.v4",
        status: 0,
        why: "Line 8 accepts everything: the drops of 9 and 10 do nothing, which is a hole; 11 and 7 are not needed.",
        says: &[
            "accepts every packet that they would deny",
            "they are lines 9, 10",
            "open.v4:11:1",
            "note[redundant]",
        ],
    },
    Shown {
        name: "call_center_idle",
        dumps: &[(
            "calls.v4",
            "hamidrhashmi.GoAutoDial__etc_sysconfig_iptables.v4",
        )],
        beside: &[],
        command: "check --rules calls.v4",
        status: 0,
        why: "All flags at once (29) has SYN and FIN (23); so have 19 and 22, and FIN,PSH,URG has PSH without ACK (26). ICMP errors are never \
            NEW (32 to 34), so that nobody gets a \"destination unreachable\" but by RELATED. PRIVATE is not used.",
        says: &[
            "they are lines 19, 22",
            "calls.v4:29:1",
            "calls.v4:20:1",
            "calls.v4:32:1",
            "`PRIVATE`",
        ],
    },
    Shown {
        name: "firewalld_idle",
        dumps: &[("firewalld.v4", FIREWALLD)],
        beside: &[],
        command: "check --rules firewalld.v4",
        status: 0,
        why: "firewalld's own rules have no fat, but that FORWARD accepts from lo (line 123), by which nothing is forwarded.",
        says: &[
            "firewalld.v4:123:1",
            "come only where a route leads to it by lo",
            "1 warning",
        ],
    },
];
