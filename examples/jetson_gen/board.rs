//! What a Jetson (or any Linux board) says of itself: model, power mode, temperatures. All of it is optional.

use std::fs;
use std::path::Path;

/// Facts that could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Board {
    /// From the device tree.
    pub(crate) model: Option<String>,
    /// Of `nvpmodel`, as it keeps it: "0002".
    pub(crate) power_mode: Option<String>,
    /// Zone and degrees Celsius.
    pub(crate) temperatures: Vec<(String, f64)>,
}

impl Board {
    /// Reads below `root`: "/" but in tests.
    pub(crate) fn read(root: &Path) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
            (!text.is_empty()).then(|| text.to_owned())
        };
        let power_mode = text("var/lib/nvpmodel/status")
            .and_then(|s| s.split_once(':').map(|(_, mode)| mode.trim().to_owned()));
        let mut temperatures: Vec<(String, f64)> = (0..32)
            .filter_map(|i| {
                let zone = format!("sys/class/thermal/thermal_zone{i}");
                let name = text(&format!("{zone}/type"))?;
                let milli: f64 = text(&format!("{zone}/temp"))?.parse().ok()?;
                Some((name, milli / 1000.0))
            })
            .collect();
        temperatures.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self { model: text("proc/device-tree/model"), power_mode, temperatures }
    }

    /// One line, if there is anything to say.
    pub(crate) fn line(&self) -> Option<String> {
        let model = self.model.as_ref()?;
        let mut line = model.clone();
        if let Some(mode) = &self.power_mode {
            line += &format!(", power mode {mode}");
        }
        if let Some((zone, degrees)) = self.temperatures.first() {
            line += &format!(", {zone} at {degrees:.0} degrees");
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("varmint-board-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Board::read(&root), Board::default());
        write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0");
        write("var/lib/nvpmodel/status", "pmode:0001\n");
        write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
        write("sys/class/thermal/thermal_zone0/temp", "45500\n");
        write("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n");
        write("sys/class/thermal/thermal_zone1/temp", "51250\n");
        let line = Board::read(&root).line();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            line.as_deref(),
            Some(
                "NVIDIA Jetson Orin Nano Developer Kit, power mode 0001, gpu-thermal at 51 degrees"
            )
        );
    }
}
