//! Resolves `original`: the destination of a connection's first packet.

use std::collections::BTreeMap;

use super::Resolver;
use super::plan::{PlannedOriginal, ServicePart};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{IntervalSet, Protocol};
use crate::policy::PolicyOriginal;

/// Resolves the names of a rule's `original`.
pub fn resolve(
    resolver: &mut Resolver<'_>,
    written: Option<&PolicyOriginal>,
    sink: &mut Sink,
) -> Option<PlannedOriginal> {
    let PolicyOriginal {
        span: _,
        destination,
        service,
    } = written?;
    let policy = resolver.policy;
    let addresses = resolver
        .addresses
        .expression(policy, destination.as_ref(), sink);
    if let (Some(addresses), Some(written)) = (&addresses, destination)
        && !addresses.sets.is_empty()
    {
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                written.span,
                "`original` cannot ask for a set: iptables compares the original destination with addresses only",
            )
            .help("list the addresses, or take a group without `set`"),
        );
    }
    if let (Some(addresses), Some(written)) = (&addresses, destination)
        && !addresses.masks.is_empty()
    {
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                written.span,
                "`original` cannot ask for an address with a mask",
            )
            .help("list the addresses or prefixes that the connections were sent to"),
        );
    }
    let mut ports: Option<BTreeMap<Protocol, IntervalSet>> = None;
    for item in service.iter().flatten() {
        let ports = ports.get_or_insert_default();
        for part in resolver.services.parts(std::slice::from_ref(item), sink) {
            match &part {
                ServicePart::Ports(part)
                    if part.source.is_none()
                        && let Some(destination) = &part.destination =>
                {
                    let known = ports.entry(part.protocol).or_default();
                    *known = known.union(destination);
                }
                _ => {
                    sink.report(
                        Diagnostic::error(
                            Code::BadValue,
                            item.span,
                            "`original` asks for destination ports only, and this service has other parts",
                        )
                        .help("name the ports, such as `\"8080/tcp\"`"),
                    );
                    break;
                }
            }
        }
    }
    Some(PlannedOriginal {
        destination: addresses,
        ports,
    })
}
