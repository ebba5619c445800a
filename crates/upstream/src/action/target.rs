//! Where requests of definitions may go: not into this machine, nor to its link.
//!
//! A name is checked when it is resolved for the very connection that is opened, so that a name server that answers differently the
//! second time gains nothing. Addresses in the URL itself are never resolved, and are checked before each hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Metadata services outside the link-local range.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same, of version 6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Decides where requests may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    pub(super) allow_local: bool,
}

/// An address is not one that requests of definitions may go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "requests to this machine, to its link and to metadata services are not sent; where they are meant, an operator allows them"
)]
pub(super) struct TargetRefused;

// === impl Guard ===

impl Guard {
    /// Checks a URL whose host is an address; a name is checked when it is resolved.
    pub(super) fn check(self, url: &Url) -> Result<(), TargetRefused> {
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse() {
            Ok(ip) if !self.allows(ip) => Err(TargetRefused),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn allows(self, ip: IpAddr) -> bool {
        self.allow_local || !is_local(ip)
    }

    fn allowed(self, resolved: impl Iterator<Item = SocketAddr>) -> Result<Addrs, TargetRefused> {
        let mut any = false;
        let allowed: Vec<SocketAddr> = resolved
            .inspect(|_| any = true)
            .filter(|address| self.allows(address.ip()))
            .collect();
        if any && allowed.is_empty() {
            return Err(TargetRefused);
        }
        Ok(Box::new(allowed.into_iter()))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            // The port is put in by the client.
            let resolved = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(guard.allowed(resolved)?)
        })
    }
}

/// Whether the address is this machine's own, its link's, a metadata service's, or no single machine's at all.
fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_local_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || METADATA_V6.contains(&ip)
                || embedded_v4(ip).is_some_and(is_local_v4)
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.octets()[0] == 0
        || METADATA_V4.contains(&ip)
}

/// The address of version 4 that a translator (RFC 6052), 6to4 (RFC 3056) or the old compatible form would send to.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some(of(high, low))
        }
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Guard = Guard { allow_local: false };

    fn url(host: &str) -> Url {
        format!("http://{host}/").parse().expect("the test's URL")
    }

    #[test]
    fn addresses_of_this_machine_and_its_link_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.9.9.9:80",
            "0x7f.1",
            "2130706433",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
        ] {
            assert_eq!(STRICT.check(&url(host)), Err(TargetRefused), "{host}");
            let lenient = Guard { allow_local: true };
            assert_eq!(lenient.check(&url(host)), Ok(()), "{host}");
        }
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "192.0.2.1",
            "[2001:db8::1]",
            "[fd00::1]",
            "h",
        ] {
            assert_eq!(STRICT.check(&url(host)), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_name_leads_only_to_those_of_its_addresses_that_are_allowed() {
        let resolved = |ips: &[&str]| {
            let addresses: Vec<SocketAddr> = ips
                .iter()
                .map(|ip| SocketAddr::new(ip.parse().expect("an address"), 0))
                .collect();
            STRICT
                .allowed(addresses.into_iter())
                .map(|allowed| allowed.map(|a| a.ip().to_string()).collect::<Vec<_>>())
        };
        assert_eq!(
            resolved(&["192.0.2.1", "127.0.0.1"]),
            Ok(vec!["192.0.2.1".to_owned()])
        );
        assert_eq!(resolved(&["127.0.0.1", "::1"]), Err(TargetRefused));
        assert_eq!(resolved(&[]), Ok(Vec::new()));
    }
}
