use monitor::probe::{Capacity, Probes, Slot};
fn main() {
    let (mut p, mut ring, mut m, mut gates) = match Probes::load(Capacity::default()) {
        Ok(x) => x,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    };
    let t = std::time::Instant::now();
    println!("{:?}", p.attach_libraries());
    println!("attached in {:?}", t.elapsed());
    for a in p.attached() {
        println!("{a:?}");
    }
    let mut g = monitor_common::Gate::default();
    g.credits = 3;
    gates.set(1, g, 0).unwrap();
    let cg = std::env::args().nth(1).unwrap();
    use std::os::unix::fs::MetadataExt;
    m.label_cgroup(std::fs::metadata(cg).unwrap().ino(), Slot(1)).unwrap();
    loop {
        ring.drain(1000, |e, t| {
            let s = format!("{e:?}");
            println!("{t} {}", &s[..s.len().min(260)]);
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
