//! Tests with the kernel's texts.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};

use super::place::{membership, mount};
use super::*;

/// Of a machine with version 1, and the other version beside it for systemd.
const HYBRID: &str = "\
12:cpu,cpuacct:/system.slice/nginx.service
4:hugetlb,memory:/system.slice/nginx.service
1:name=systemd:/system.slice/nginx.service
0::/system.slice/nginx.service
";

const HYBRID_MOUNTS: &str = "\
23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:14 - cgroup cgroup rw,hugetlb,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

const V2_MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
27 23 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

/// Of a container that shares the machine's control group namespace.
const DOCKER_MOUNTS: &str = "\
700 690 0:140 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
711 705 0:32 /docker/f00d /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:14 - cgroup cgroup rw,memory
";

const V1_STAT: &str = "\
cache 50331648
rss 16777216
rss_huge 0
shmem 1048576
mapped_file 27377664
swap 0
inactive_file 1052127232
hierarchical_memory_limit 268435456
hierarchical_memsw_limit 9223372036854771712
total_cache 62914560
total_rss 20971520
total_rss_huge 0
total_shmem 2097152
total_mapped_file 27377664
total_swap 4096
total_inactive_file 1052127232
";

const V2_STAT: &str = "\
anon 20971520
file 62914560
kernel 4194304
kernel_stack 131072
pagetables 819200
sec_pagetables 0
percpu 2048
sock 8192
vmalloc 4096
shmem 2097152
zswap 0
file_mapped 27377664
slab_reclaimable 1400000
slab_unreclaimable 800000
slab 2200000
workingset_refault_anon 0
";

const EVENTS: &str = "low 0\nhigh 7\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";

const PRESSURE: &str = "\
some avg10=1.53 avg60=0.25 avg300=0.00 total=81250
full avg10=0.50 avg60=0.00 avg300=0.00 total=40000
";

const NO_LIMIT: &str = "9223372036854771712\n";

/// The files of a machine, by path. Others do not exist.
#[derive(Clone, Default)]
struct Files(HashMap<String, String>);

impl Files {
    fn with(mut self, folder: &str, files: &[(&str, &str)]) -> Self {
        for (name, text) in files {
            self.0.insert(format!("{folder}/{name}"), (*text).to_owned());
        }
        self
    }

    fn v2(self, folder: &str, max: &str, high: &str, current: &str) -> Self {
        let limits = [("memory.max", max), ("memory.high", high), ("memory.current", current)];
        let rest = [
            ("memory.stat", V2_STAT),
            ("memory.swap.current", "4096\n"),
            ("memory.events", EVENTS),
            ("memory.pressure", PRESSURE),
        ];
        self.with(folder, &limits).with(folder, &rest)
    }

    fn v1(self, folder: &str, limit: &str, usage: &str, kills: &str) -> Self {
        let control = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
        let files = [
            ("memory.limit_in_bytes", limit),
            ("memory.usage_in_bytes", usage),
            ("memory.kmem.usage_in_bytes", "4194304\n"),
            ("memory.use_hierarchy", "1\n"),
            ("memory.oom_control", &control),
            ("memory.stat", V1_STAT),
        ];
        self.with(folder, &files)
    }

    /// What is read of the machine, or of a container there.
    fn read(&self, groups: &str, mounts: &str) -> ContainerReading {
        let membership = membership(groups).unwrap();
        let mount = mount(mounts, &membership).unwrap();
        read(&membership, &mount, &|path| match self.0.get(path).map(String::as_str) {
            None => Err(ErrorKind::NotFound.into()),
            Some("EACCES") => Err(ErrorKind::PermissionDenied.into()),
            Some("EOPNOTSUPP") => Err(Error::from_raw_os_error(libc::EOPNOTSUPP)),
            Some(text) => Ok(text.to_owned()),
        })
    }

    fn known(&self, groups: &str, mounts: &str) -> Container {
        let ContainerReading { container, notes } = self.read(groups, mounts);
        assert!(notes.is_empty(), "{notes:?}");
        container.unwrap()
    }
}

/// The only note: on a figure.
fn note(field: &'static str, why: &str) -> Vec<Unread> {
    vec![(Box::leak(Box::new([field])), why.to_owned())]
}

const M: u64 = 1 << 20;
const OWN: &str = "0::/a/b\n";
const AT: &str = "/sys/fs/cgroup";

#[test]
fn where_memory_is_counted() {
    let of = |groups| membership(groups).map(|of| (of.version, of.path));
    assert_eq!(of(HYBRID), Some((CgroupVersion::V1, "/system.slice/nginx.service")));
    assert_eq!(of("1:name=systemd:/a\n0::/a:b\n"), Some((CgroupVersion::V2, "/a:b")));
    assert_eq!(of("3:cpuset:/\n1:name=memory:/a\n"), None);
    assert_eq!((of(""), of("x\n0:\n")), (None, None));
}

#[test]
fn where_it_is_mounted() {
    let of = |groups, mounts| {
        let membership = membership(groups).unwrap();
        let mount = mount(mounts, &membership)?;
        Some(mount.groups(membership.path))
    };
    let folders = |names: &[&str]| Some(Some(names.iter().map(|n| (*n).to_owned()).collect()));
    assert_eq!(
        of(HYBRID, HYBRID_MOUNTS),
        folders(&[
            "/sys/fs/cgroup/memory/system.slice/nginx.service",
            "/sys/fs/cgroup/memory/system.slice",
            "/sys/fs/cgroup/memory"
        ])
    );
    assert_eq!(of("0::/\n", V2_MOUNTS), folders(&["/sys/fs/cgroup"]));
    assert_eq!(of("4:memory:/docker/f00d\n", DOCKER_MOUNTS), folders(&["/sys/fs/cgroup/memory"]));
    let below = folders(&["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"]);
    assert_eq!(of("4:memory:/docker/f00d/x\n", DOCKER_MOUNTS), below);
    // Neither a group beside the mounted one, nor one outside the namespace.
    assert_eq!(of("4:memory:/docker/f00d2\n", DOCKER_MOUNTS), Some(None));
    assert_eq!(of("0::/../b\n", V2_MOUNTS), Some(None));
    assert_eq!(of("0::/a\n", DOCKER_MOUNTS), None);
    let strange = "9 1 0:24 / /a\\040b\\134 rw shared:1 master:2 - cgroup2 none rw\n9 1\n - - \n";
    assert_eq!(of("0::/x\n", strange), folders(&["/a b\\/x", "/a b\\"]));
    let deep = membership("0::/").unwrap();
    let all = mount(V2_MOUNTS, &deep).unwrap().groups(&"/x".repeat(1000)).unwrap();
    assert!(all.len() <= 32);
}

#[test]
fn version_2() {
    let files = Files::default().v2("/sys/fs/cgroup", "536870912\n", "max\n", "100663296\n");
    let container = files.known("0::/\n", V2_MOUNTS);
    let stall = |avg10_percent, avg60_percent, total_us| Stall {
        avg10_percent,
        avg60_percent,
        avg300_percent: 0.0,
        total_us,
    };
    let expected = Container {
        limit: Some(512 * M),
        high: None,
        usage: Some(96 * M),
        headroom: Some(416 * M),
        page_cache: Some(58 * M),
        anon: Some(20 * M),
        shmem: Some(2 * M),
        kernel: Some(4 * M + 8192),
        swap: Some(4096),
        oom_kills: Some(2),
        pressure: Some(Pressure { some: stall(1.53, 0.25, 81_250), full: stall(0.5, 0.0, 40_000) }),
    };
    assert_eq!(container, expected);
}

#[test]
fn the_smallest_limit_on_the_way_up() {
    let b = format!("{AT}/a/b");
    let a = format!("{AT}/a");
    let top = [("memory.stat", V2_STAT)];
    let machine = Files::default().with(AT, &top);
    let of = |own: [&str; 3], above: [&str; 3]| {
        let files =
            machine.clone().v2(&b, own[0], own[1], own[2]).v2(&a, above[0], above[1], above[2]);
        let c = files.known(OWN, V2_MOUNTS);
        (c.limit, c.high, c.usage, c.headroom)
    };
    let (own, above) = (Some(100), Some(700));
    assert_eq!(of(["max", "max", "100"], ["max", "max", "700"]), (None, None, own, None));
    assert_eq!(of(["400", "max", "100"], ["max", "max", "700"]), (Some(400), None, own, Some(300)));
    assert_eq!(of(["400", "max", "100"], ["400", "max", "399"]), (Some(400), None, own, Some(1)));
    // The group above is nearer to its limit, though that is larger.
    assert_eq!(of(["400", "max", "100"], ["750", "max", "700"]), (Some(400), None, own, Some(50)));
    assert_eq!(
        of(["max", "max", "100"], ["750", "max", "700"]),
        (Some(750), None, above, Some(50))
    );
    assert_eq!(
        of(["900", "max", "100"], ["750", "800", "700"]),
        (Some(750), Some(800), above, Some(50))
    );
    assert_eq!(
        of(["max", "300", "100"], ["750", "max", "700"]),
        (Some(750), Some(300), own, Some(50))
    );
    // The usage may be above a limit that has just been set.
    assert_eq!(of(["60", "max", "100"], ["max", "max", "700"]), (Some(60), None, own, Some(0)));
}

/// A group without the controller is counted in the group above.
#[test]
fn without_the_controller() {
    let files = Files::default().v2(&format!("{AT}/a"), "max", "max", "700");
    assert_eq!(files.known(OWN, V2_MOUNTS).usage, Some(700));
    let reading = Files::default().with(AT, &[("memory.stat", V2_STAT)]).read(OWN, V2_MOUNTS);
    assert_eq!(reading, ContainerReading::default());
}

#[test]
fn version_1() {
    let at = "/sys/fs/cgroup/memory";
    let root = [("release_agent", "\n"), ("memory.use_hierarchy", "1\n")];
    let machine = Files::default().v1(at, NO_LIMIT, "900000000\n", "0").with(at, &root);
    let (slice, service) =
        (format!("{at}/system.slice"), format!("{at}/system.slice/nginx.service"));
    let files = machine.v1(&slice, "268435456\n", "100663296\n", "0");
    let files = files.v1(&service, NO_LIMIT, "12000000\n", "3");
    let expected = Container {
        limit: Some(256 * M),
        high: None,
        usage: Some(96 * M),
        headroom: Some(160 * M),
        page_cache: Some(58 * M),
        anon: Some(20 * M),
        shmem: Some(2 * M),
        kernel: Some(4 * M),
        swap: Some(4096),
        // Those of its own group: the kernel does not count them above.
        oom_kills: Some(3),
        pressure: None,
    };
    assert_eq!(files.known(HYBRID, HYBRID_MOUNTS), expected);
    // Counted apart from the group above, as some kernels did.
    let stat = V1_STAT.replace("268435456", "9223372036854771712");
    let apart = [("memory.use_hierarchy", "0\n"), ("memory.stat", &*stat)];
    let apart = files.clone().with(&service, &apart).known(HYBRID, HYBRID_MOUNTS);
    assert_eq!((apart.limit, apart.usage, apart.headroom), (None, Some(12_000_000), None));
    // The machine's own group limits nothing.
    assert_eq!(files.read("4:memory:/\n", HYBRID_MOUNTS), ContainerReading::default());
}

#[test]
fn a_limit_above_the_mounted_group() {
    let at = "/sys/fs/cgroup/memory";
    let files = Files::default().v1(at, NO_LIMIT, "1000\n", "0");
    let reading = files.read("4:memory:/docker/f00d\n", DOCKER_MOUNTS);
    let container = reading.container.unwrap();
    assert_eq!((container.limit, container.usage), (Some(256 * M), Some(1000)));
    assert_eq!(container.headroom, None);
    assert_eq!(
        reading.notes,
        note("container.headroom", "the limit is of a control group that is not mounted here")
    );
    let files = Files::default().v1(at, "268435456\n", "1000\n", "0");
    let container = files.known("4:memory:/docker/f00d\n", DOCKER_MOUNTS);
    assert_eq!(container.headroom, Some(256 * M - 1000), "of the container itself");
}

/// What the kernel does not have is not worth a note; what cannot be read is.
#[test]
fn files_that_lack() {
    let whole = Files::default().v2(AT, "max\n", "max\n", "100663296\n");
    let mut old = whole.clone().with(AT, &[("memory.pressure", "EOPNOTSUPP")]);
    old.0.remove("/sys/fs/cgroup/memory.swap.current");
    let parts = V2_STAT.replace("\nkernel 4194304", "").replace("\nsock 8192", "");
    let old = old.with(AT, &[("memory.stat", &parts), ("memory.events", "low 0\noom 3\n")]);
    let container = old.known("0::/\n", V2_MOUNTS);
    assert_eq!((container.swap, container.pressure, container.oom_kills), (None, None, None));
    assert_eq!(container.kernel, Some(131_072 + 819_200 + 2048 + 4096 + 2_200_000));

    let refused = ["max", "high", "current", "stat", "swap.current", "events", "pressure"];
    let refused = refused.map(|name| (format!("memory.{name}"), "EACCES"));
    let refused: Vec<_> = refused.iter().map(|(name, text)| (&**name, *text)).collect();
    let reading = whole.clone().with(AT, &refused).read("0::/\n", V2_MOUNTS);
    assert_eq!(reading.container, Some(Container::default()));
    let figures: Vec<_> = reading.notes.iter().map(|n| n.0.join(" ")).collect();
    assert_eq!(
        figures,
        [
            "container.limit",
            "container.high",
            "container.page_cache container.anon container.shmem container.kernel",
            "container.usage",
            "container.swap",
            "container.oom_kills",
            "container.pressure",
        ]
    );
    assert_eq!(reading.notes[0].1, "cannot read /sys/fs/cgroup/memory.max: permission denied");

    let odd = whole.with(AT, &[("memory.max", "many\n"), ("memory.pressure", "some\n")]);
    let reading = odd.read("0::/\n", V2_MOUNTS);
    let why = "/sys/fs/cgroup/memory.max has no number";
    assert_eq!(reading.notes[0], note("container.limit", why)[0]);
    let why = "/sys/fs/cgroup/memory.pressure is not of the expected form";
    assert_eq!(reading.notes[1..], note("container.pressure", why));
}

#[test]
fn groups_that_cannot_be_seen() {
    let top = membership("0::/\n").unwrap();
    assert_eq!(not_mounted(&top), ContainerReading::default());
    let below = membership("0::/a\n").unwrap();
    let why = "the process is in the control group /a, but none of its files are mounted";
    assert_eq!(not_mounted(&below).notes, note("container", why));
    let reading = Files::default().read("0::/../b\n", V2_MOUNTS);
    let why = "the control group /../b is not below /, which is mounted at /sys/fs/cgroup";
    assert_eq!((reading.container, reading.notes), (None, note("container", why)));
}

/// On this machine, whatever it has.
#[test]
fn of_this_process() {
    for _ in 0..2 {
        let ContainerReading { container, notes } = own();
        assert!(notes.is_empty(), "{notes:?}");
        let Some(container) = container else { continue };
        assert!(container.usage.is_some_and(|usage| usage > 0), "{container:?}");
        assert_eq!(container.limit.is_some(), container.headroom.is_some(), "{container:?}");
    }
}

/// The cost of a reading. Shown with `--nocapture --ignored`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    own();
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        own();
    }
    println!("{:?} a reading, {:?}", start.elapsed() / 1000, own());
}
