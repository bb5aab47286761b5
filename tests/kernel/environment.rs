//! Whether this machine lets the kernel's own netfilter be asked.

use std::sync::{LazyLock, Mutex};

use fwc::net::Family;
use libtest_mimic::{Completion, Failed, Trial};

use crate::lab::Lab;
use crate::support::namespace::Namespace;
use crate::support::tools::{Backend, find};

/// What keeps tests with this backend from running here, if anything does.
fn obstacle(backend: Backend) -> Option<&'static str> {
    static FOUND: LazyLock<[Option<String>; 2]> =
        LazyLock::new(|| Backend::ALL.map(|backend| try_out(backend).err()));
    FOUND[backend as usize].as_deref()
}

fn try_out(backend: Backend) -> Result<(), String> {
    for tool in ["ip", "ipset", "conntrack", "ping", "nft"] {
        find(tool)?;
    }
    let namespace = Namespace::new()?;
    Family::ALL.into_iter().try_for_each(|family| {
        let rules = "*filter\n-A INPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
        namespace.restore(backend, family, &[], rules)
    })
}

/// A test that needs the kernel: ignored with the reason where it cannot run, failed with
/// `FWC_REQUIRE_KERNEL=1`.
pub fn kernel_test(
    name: String,
    backend: Backend,
    body: impl FnOnce() -> Result<Completion, Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match obstacle(backend) {
        None => body(),
        Some(reason) if std::env::var_os("FWC_REQUIRE_KERNEL").is_some_and(|set| set == "1") => {
            Err(format!("FWC_REQUIRE_KERNEL=1, but {reason}").into())
        }
        Some(reason) => Ok(Completion::ignored_with(reason)),
    })
}

/// Makes a test for each subject and backend, named `GROUP::SUBJECT::BACKEND`. A body returns what is wrong, a line each.
pub fn tests_with_each_backend<F>(
    group: &str,
    subjects: impl IntoIterator<Item = (&'static str, F)>,
) -> Vec<Trial>
where
    F: Fn(Backend) -> Result<String, String> + Copy + Send + 'static,
{
    let mut trials = Vec::new();
    for (subject, body) in subjects {
        for backend in Backend::ALL {
            let title = format!("{group}::{subject}::{backend}");
            trials.push(kernel_test(title, backend, move || {
                let wrong = body(backend)?;
                if wrong.is_empty() {
                    Ok(Completion::Completed)
                } else {
                    Err(Failed::from(wrong))
                }
            }));
        }
    }
    trials
}

/// Labs that wait for their next use, with the devices that they were made with.
static LABS: Mutex<Vec<Lab>> = Mutex::new(Vec::new());

/// Lends a lab with these devices. One whose test panicked is not used again.
pub fn with_lab<T>(
    backend: Backend,
    devices: &[String],
    body: impl FnOnce(&mut Lab) -> Result<T, String>,
) -> Result<T, String> {
    let idle = {
        let mut labs = LABS.lock().expect("labs");
        let fitting = labs.iter().position(|lab| lab.fits(backend, devices));
        fitting.map(|index| labs.swap_remove(index))
    };
    let mut lab = match idle {
        Some(lab) => lab,
        None => Lab::new(backend, devices)?,
    };
    let done = body(&mut lab);
    LABS.lock().expect("labs").push(lab);
    done
}
