//! The list of what was started, in one file, so that another run finds and stops it.

use super::launch;
use super::{Durability, Place};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// A server that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) durability: Durability,
    pub(crate) port: u16,
    pub(crate) pid: u32,
    /// When the process started, in the kernel's ticks: a later process of the same id is another one.
    pub(super) started: u64,
    pub(super) data: PathBuf,
}

impl Instance {
    /// Whether that very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        launch::started(self.pid) == Some(self.started)
    }

    /// Stops the process when it runs, and removes its data.
    pub(super) fn stop(&self) -> Result<(), String> {
        if self.is_alive() {
            launch::stop(self.pid)?;
        }
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("stopped, but {}: {error}", self.data.display()))
            }
            _ => Ok(()),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "durability": self.durability.as_str(),
            "port": self.port,
            "pid": self.pid,
            "started": self.started,
            "data": self.data,
        })
    }

    fn of_json(value: &Value) -> Option<Self> {
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            durability: Durability::of(value["durability"].as_str()?)?,
            port: u16::try_from(value["port"].as_u64()?).ok()?,
            pid: u32::try_from(value["pid"].as_u64()?).ok()?,
            started: value["started"].as_u64()?,
            data: PathBuf::from(value["data"].as_str()?),
        })
    }
}

/// What runs, as the file says.
#[derive(Debug, Default)]
pub(super) struct Running(Vec<Instance>);

impl Running {
    /// An absent file means that nothing runs; one that cannot be understood is refused, since servers would be lost.
    pub(super) fn read(place: &Place) -> Result<Self, String> {
        let path = place.list();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let list: Option<Vec<Instance>> = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|value| value.as_array()?.iter().map(Instance::of_json).collect());
        list.map(Self).ok_or_else(|| {
            format!(
                "{}: not a list of running engines: stop them by hand and remove the file",
                path.display()
            )
        })
    }

    /// Writes the list as a whole: a reader sees the old one or the new one.
    pub(super) fn write(&self, place: &Place) -> Result<(), String> {
        let path = place.list();
        let list: Vec<Value> = self.0.iter().map(Instance::to_json).collect();
        let text = format!("{:#}\n", Value::from(list));
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.0.iter()
    }

    /// The instance of this name and durability, when its process runs.
    pub(super) fn alive(&self, name: &str, durability: Durability) -> Option<&Instance> {
        let same = |i: &&Instance| i.name == name && i.durability == durability;
        self.0.iter().filter(same).find(|i| i.is_alive())
    }

    /// Takes the place of an instance that has ended.
    pub(super) fn add(&mut self, instance: Instance) {
        let same = |i: &Instance| i.name == instance.name && i.durability == instance.durability;
        for ended in self.0.iter().filter(|i| same(i)) {
            // What is left of its data is of no use to anybody.
            let _ = ended.stop();
        }
        self.0.retain(|i| !same(i));
        self.0.push(instance);
    }

    pub(super) fn remove(&mut self, instance: &Instance) {
        self.0.retain(|i| i != instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn instance(dir: &Path, name: &str, pid: u32, started: u64) -> Instance {
        Instance {
            name: name.to_owned(),
            durability: Durability::Fsync,
            port: 4000,
            pid,
            started,
            data: dir.join(name),
        }
    }

    #[test]
    fn what_was_written_is_read_again_and_only_the_same_process_is_alive() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Place::in_directory(dir.path());
        let mut running = Running::read(&place).expect("nothing runs yet");
        let own = std::process::id();
        let started = launch::started(own).expect("this process runs");
        running.add(instance(dir.path(), "nats", own, started));
        running.add(instance(dir.path(), "redis", own, started + 1));
        running.write(&place).expect("written");

        let running = Running::read(&place).expect("read");
        assert!(running.alive("nats", Durability::Fsync).is_some());
        assert!(running.alive("nats", Durability::Default).is_none());
        assert!(running.alive("redis", Durability::Fsync).is_none());
        assert_eq!(running.instances().count(), 2);
    }

    #[test]
    fn an_instance_that_ended_gives_way_and_its_data_goes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let own = std::process::id();
        let mut running = Running::default();
        let mut old = instance(dir.path(), "nats", own, 1);
        old.data = dir.path().join("old");
        fs::create_dir(&old.data).expect("mkdir");
        running.add(old.clone());
        running.add(instance(dir.path(), "nats", own, 2));
        assert_eq!(running.instances().count(), 1);
        assert!(!old.data.exists());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Place::in_directory(dir.path());
        for text in ["[{\"name\": \"redis\"}]", "{}", "["] {
            fs::write(place.list(), text).expect("write");
            let refused = Running::read(&place).err().unwrap_or_default();
            assert!(refused.contains("stop them by hand"), "{text}: {refused}");
        }
    }
}
