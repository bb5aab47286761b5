//! The service names of Debian 12's `/etc/services` and their ports, built in so that a file means the same on every
//! machine.

use super::names::{Transport, Transport::*};

/// Returns the port of a service name, of the given protocol or of any.
pub(super) fn service_port(name: &str, transport: Option<Transport>) -> Option<u16> {
    let start = SERVICES.partition_point(|(known, ..)| *known < name);
    let found = SERVICES[start..]
        .iter()
        .take_while(|(known, ..)| *known == name);
    let mut fits =
        found.filter(|(.., transports)| transport.is_none_or(|one| transports.contains(&one)));
    fits.next().map(|(_, port, _)| *port)
}

const T: &[Transport] = &[Tcp];
const U: &[Transport] = &[Udp];
const B: &[Transport] = &[Tcp, Udp];
const S: &[Transport] = &[Tcp, Sctp];

/// Name, port and protocols, sorted by name.
#[rustfmt::skip]
const SERVICES: &[(&str, u16, &[Transport])] = &[
    ("Clearcase", 371, U), ("acr-nema", 104, T), ("afpovertcp", 548, T), ("afs3-bos", 7007, U),
    ("afs3-callback", 7001, U), ("afs3-fileserver", 7000, U), ("afs3-kaserver", 7004, U),
    ("afs3-prserver", 7002, U), ("afs3-rmtsys", 7009, U), ("afs3-update", 7008, U),
    ("afs3-vlserver", 7003, U), ("afs3-volser", 7005, U), ("amanda", 10080, T), ("amandaidx", 10082, T),
    ("amidxtape", 10083, T), ("amqp", 5672, S), ("amqps", 5671, T), ("asf-rmcp", 623, U), ("asp", 27374, B),
    ("auth", 113, T), ("authentication", 113, T), ("babel", 6696, U), ("bacula-dir", 9101, T),
    ("bacula-fd", 9102, T), ("bacula-sd", 9103, T), ("bbs", 7000, T), ("bgp", 179, T), ("bgpd", 2605, T),
    ("biff", 512, U), ("binkp", 24554, T), ("bootpc", 68, U), ("bootps", 67, U), ("canna", 5680, T),
    ("cfengine", 5308, T), ("chargen", 19, B), ("cisco-sccp", 2000, T), ("clc-build-daemon", 8990, T),
    ("clearcase", 371, U), ("cmd", 514, T), ("cmip-agent", 164, B), ("cmip-man", 163, B),
    ("codaauth2", 370, B), ("codasrv", 2432, B), ("codasrv-se", 2433, B), ("comsat", 512, U),
    ("csync2", 30865, T), ("cvspserver", 2401, T), ("daap", 3689, T), ("datametrics", 1645, B),
    ("daytime", 13, B), ("db-lsp", 17500, T), ("dcap", 22125, T), ("dhcpv6-client", 546, U),
    ("dhcpv6-server", 547, U), ("dicom", 104, T), ("dicom", 11112, T), ("dict", 2628, T),
    ("dircproxy", 57000, T), ("discard", 9, B), ("distcc", 3632, T), ("domain", 53, B), ("domain-s", 853, B),
    ("echo", 7, B), ("epmap", 135, T), ("epmd", 4369, T), ("exec", 512, T), ("f5-globalsite", 2792, T),
    ("f5-iquery", 4353, T), ("fax", 4557, T), ("fido", 60179, T), ("finger", 79, T),
    ("font-service", 7100, T), ("freeciv", 5556, T), ("fsp", 21, U), ("fspd", 21, U), ("ftp", 21, T),
    ("ftp-data", 20, T), ("ftps", 990, T), ("ftps-data", 989, T), ("gdomap", 538, B), ("gds-db", 3050, T),
    ("gds_db", 3050, T), ("git", 9418, T), ("gnunet", 2086, B), ("gnutella-rtr", 6347, B),
    ("gnutella-svc", 6346, B), ("gopher", 70, T), ("gpsd", 2947, T), ("gris", 2135, T),
    ("groupwise", 1677, T), ("gsidcap", 22128, T), ("gsiftp", 2811, T), ("gsigatekeeper", 2119, T),
    ("hkp", 11371, T), ("hprop", 754, T), ("http", 80, T), ("http-alt", 8080, T), ("https", 443, B),
    ("hylafax", 4559, T), ("iax", 4569, U), ("icp", 3130, U), ("icpv2", 3130, U), ("ident", 113, T),
    ("imap", 143, T), ("imap2", 143, T), ("imaps", 993, T), ("ingreslock", 1524, T), ("ipp", 631, T),
    ("iprop", 2121, T), ("ipsec-nat-t", 4500, U), ("ipx", 213, U), ("ircd", 6667, T), ("ircs-u", 6697, T),
    ("isakmp", 500, U), ("iscsi-target", 3260, T), ("isisd", 2608, T), ("isns", 3205, B),
    ("iso-tsap", 102, T), ("jabber-client", 5222, T), ("jabber-server", 5269, T), ("kamanda", 10081, T),
    ("kdc", 750, B), ("kerberos", 88, B), ("kerberos-adm", 749, T), ("kerberos-iv", 750, B),
    ("kerberos-master", 751, B), ("kerberos-sec", 88, B), ("kerberos4", 750, B), ("kerberos5", 88, B),
    ("kerberos_master", 751, U), ("kermit", 1649, T), ("klogin", 543, T), ("kpasswd", 464, B),
    ("krb-prop", 754, T), ("krb5", 88, B), ("krb5_prop", 754, T), ("krb_prop", 754, T), ("krcmd", 544, T),
    ("kshell", 544, T), ("l2f", 1701, U), ("l2tp", 1701, U), ("ldap", 389, B), ("ldaps", 636, B),
    ("ldp", 646, B), ("loc-srv", 135, T), ("login", 513, T), ("lotusnote", 1352, T), ("lotusnotes", 1352, T),
    ("lrrd", 4949, T), ("mail", 25, T), ("mailq", 174, T), ("mdns", 5353, U), ("microsoft-ds", 445, T),
    ("moira-db", 775, T), ("moira-update", 777, T), ("moira-ureg", 779, U), ("moira_db", 775, T),
    ("moira_update", 777, T), ("moira_ureg", 779, U), ("mon", 2583, B), ("ms-sql-m", 1434, U),
    ("ms-sql-s", 1433, T), ("ms-wbt-server", 3389, T), ("mtn", 4691, T), ("munin", 4949, T),
    ("mysql", 3306, T), ("mysql-proxy", 6446, T), ("nbd", 10809, T), ("netbios-dgm", 138, U),
    ("netbios-ns", 137, U), ("netbios-ssn", 139, T), ("netstat", 15, T), ("nfs", 2049, B), ("nicname", 43, T),
    ("nntp", 119, T), ("nntps", 563, T), ("nqs", 607, T), ("nrpe", 5666, T), ("nsca", 5667, T),
    ("ntalk", 518, U), ("ntp", 123, U), ("ntske", 4460, T), ("null", 9, B), ("nut", 3493, B),
    ("old-radacct", 1646, B), ("old-radius", 1645, B), ("omniorb", 8088, T), ("openvpn", 1194, B),
    ("ospf6d", 2606, T), ("ospfapi", 2607, T), ("ospfd", 2604, T), ("passwd-server", 752, U),
    ("passwd_server", 752, U), ("pawserv", 345, T), ("pop-3", 110, T), ("pop3", 110, T), ("pop3s", 995, T),
    ("poppassd", 106, T), ("portmapper", 111, B), ("postgres", 5432, T), ("postgresql", 5432, T),
    ("predict", 1210, U), ("printer", 515, T), ("proofd", 1093, T), ("ptp-event", 319, U),
    ("ptp-general", 320, U), ("puppet", 8140, T), ("qmqp", 628, T), ("qmtp", 209, T), ("qotd", 17, T),
    ("quote", 17, T), ("radacct", 1813, B), ("radius", 1812, B), ("radius-acct", 1813, B),
    ("radmin-port", 4899, T), ("readnews", 119, T), ("redis", 6379, T), ("remctl", 4373, T),
    ("ripd", 2602, T), ("ripngd", 2603, T), ("rmiregistry", 1099, T), ("rmtcfg", 1236, T), ("rootd", 1094, T),
    ("route", 520, U), ("routed", 520, U), ("router", 520, U), ("rpc2portmap", 369, B), ("rplay", 5555, U),
    ("rptp", 5556, T), ("rsync", 873, T), ("rtcm-sc104", 2101, B), ("rtsp", 554, B), ("sa-msg-port", 1646, B),
    ("saft", 487, T), ("sane", 6566, T), ("sane-port", 6566, T), ("saned", 6566, T), ("sge-execd", 6445, T),
    ("sge-qmaster", 6444, T), ("sge_execd", 6445, T), ("sge_qmaster", 6444, T), ("sgi-cad", 17004, T),
    ("sgi-cmsd", 17001, U), ("sgi-crsd", 17002, U), ("sgi-gcd", 17003, U), ("shell", 514, T),
    ("sieve", 4190, T), ("silc", 706, T), ("sink", 9, B), ("sip", 5060, B), ("sip-tls", 5061, B),
    ("skkserv", 1178, T), ("smtp", 25, T), ("smtps", 465, T), ("smux", 199, T), ("snmp", 161, B),
    ("snmp-trap", 162, B), ("snmptrap", 162, B), ("snntp", 563, T), ("snpp", 444, T), ("socks", 1080, T),
    ("source", 19, B), ("spamd", 783, T), ("spooler", 515, T), ("ssh", 22, T), ("ssmtp", 465, T),
    ("submission", 587, T), ("submissions", 465, T), ("subversion", 3690, T), ("sunrpc", 111, B),
    ("supfiledbg", 1127, T), ("supfilesrv", 871, T), ("suucp", 4031, T), ("svn", 3690, T), ("svrloc", 427, B),
    ("syslog", 514, B), ("syslog-tls", 6514, T), ("sysrqd", 4094, T), ("systat", 11, T), ("tacacs", 49, B),
    ("talk", 517, U), ("tap", 113, T), ("tcpmux", 1, T), ("telnet", 23, T), ("telnets", 992, T),
    ("tfido", 60177, T), ("tftp", 69, U), ("time", 37, B), ("timserver", 37, B), ("tinc", 655, B),
    ("tproxy", 8081, T), ("tsap", 102, T), ("ttytst", 19, B), ("untp", 119, T), ("urd", 465, T),
    ("users", 11, T), ("uucp", 540, T), ("uucpd", 540, T), ("venus", 2430, B), ("venus-se", 2431, B),
    ("wais", 210, T), ("webcache", 8080, T), ("webmin", 10000, T), ("who", 513, U), ("whod", 513, U),
    ("whois", 43, T), ("wnn6", 22273, T), ("www", 80, T), ("x11", 6000, T), ("x11-0", 6000, T),
    ("x11-1", 6001, T), ("x11-2", 6002, T), ("x11-3", 6003, T), ("x11-4", 6004, T), ("x11-5", 6005, T),
    ("x11-6", 6006, T), ("x11-7", 6007, T), ("xdmcp", 177, U), ("xfs", 7100, T), ("xinetd", 9098, T),
    ("xmms2", 9667, T), ("xmpp-client", 5222, T), ("xmpp-server", 5269, T), ("xtel", 1313, T),
    ("xtelw", 1314, T), ("z3950", 210, T), ("zabbix-agent", 10050, T), ("zabbix-trapper", 10051, T),
    ("zebra", 2601, T), ("zebrasrv", 2600, T), ("zephyr-clt", 2103, U), ("zephyr-hm", 2104, U),
    ("zephyr-srv", 2102, U), ("zope", 9673, T), ("zope-ftp", 8021, T), ("zserv", 346, T),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found() {
        assert!(SERVICES.is_sorted_by_key(|(name, ..)| *name));
        assert_eq!(service_port("ssh", Some(Tcp)), Some(22));
        assert_eq!(service_port("http", None), Some(80));
        assert_eq!(service_port("www", Some(Tcp)), Some(80));
        assert_eq!(service_port("tftp", Some(Tcp)), None);
        assert_eq!(service_port("no-such-service", None), None);
    }
}
