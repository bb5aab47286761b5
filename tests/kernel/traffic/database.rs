//! `examples/database`: what leaves depends on who sends it.

use super::Service::{Tcp, TcpAs, Udp};
use super::{ask, load, star};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Refusal, Silence};
use crate::support::tools::Backend;

const APT: u32 = 42;
const BACKUP: u32 = 34;
const POSTGRES: u32 = 114;

pub fn database(backend: Backend) -> Result<String, String> {
    let (middle, database) = (Namespace::new()?, Namespace::new()?);
    let (client, admin) = (Namespace::new()?, Namespace::new()?);
    let (replica, store, world) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    star(
        &middle,
        &[
            (&database, "10.20.2.1", "2001:db8:20:2::1"),
            (&client, "10.20.1.9", "2001:db8:20:1::9"),
            (&admin, "10.20.0.9", "2001:db8:20::9"),
            (&replica, "10.20.2.11", "2001:db8:20:2::11"),
            (&store, "10.20.9.5", "2001:db8:20:9::5"),
            (&world, "192.0.2.9", "2001:db8:2::9"),
        ],
    )?;
    let mut wrong = ask(&[
        (&world, &database, "10.20.2.1", Tcp(5432), Answer),
        (
            &database,
            &world,
            "2001:db8:2::9",
            TcpAs(POSTGRES, 5432),
            Answer,
        ),
    ])?;

    load(&database, backend, "database/fwc.toml")?;
    for [here, there, backups, outside] in [
        ["10.20.2.1", "10.20.2.11", "10.20.9.5", "192.0.2.9"],
        [
            "2001:db8:20:2::1",
            "2001:db8:20:2::11",
            "2001:db8:20:9::5",
            "2001:db8:2::9",
        ],
    ] {
        wrong += &ask(&[
            (&client, &database, here, Tcp(5432), Answer),
            (&replica, &database, here, Tcp(5432), Answer),
            (&world, &database, here, Tcp(5432), Silence),
            (&admin, &database, here, Tcp(22), Answer),
            (&client, &database, here, Tcp(22), Silence),
            (&database, &replica, there, TcpAs(POSTGRES, 5432), Answer),
            (&database, &replica, there, TcpAs(BACKUP, 5432), Refusal),
            (&database, &replica, there, TcpAs(0, 5432), Refusal),
            (&database, &store, backups, TcpAs(BACKUP, 22), Answer),
            (&database, &store, backups, TcpAs(POSTGRES, 22), Refusal),
            (&database, &world, outside, TcpAs(APT, 443), Answer),
            (&database, &world, outside, TcpAs(POSTGRES, 443), Refusal),
            (&database, &world, outside, TcpAs(0, 80), Refusal),
            (&database, &world, outside, TcpAs(POSTGRES, 5432), Refusal),
            (&database, &world, outside, TcpAs(BACKUP, 22), Refusal),
            (&database, &world, outside, Udp(53), Answer),
            (&database, &world, outside, Tcp(53), Answer),
        ])?;
    }
    Ok(wrong)
}
