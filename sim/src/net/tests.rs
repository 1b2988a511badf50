//! Laws of the nets, in memory and over the loopback interface.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;

const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 10, 1));
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 2, 7));
const LONG: Duration = Duration::from_hours(1);

fn net() -> MemNet {
    MemNet::new(&SeededRng::new(1))
}

/// Answers every connection with the bytes it sends, until it ends.
async fn echo(listener: Box<dyn Listener>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await.ok();
            writer.shutdown().await.ok();
        });
    }
}

async fn echoed(mut stream: BoxStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

async fn a_conversation(net: &dyn Net) {
    let listener = net.listen(SocketAddr::new(THERE, 0)).await.unwrap();
    let to = listener.local_addr();
    assert_ne!(to.port(), 0);
    let (accepted, connected) = tokio::join!(listener.accept(), net.connect(Some(SOURCE), to));
    let ((mut there, peer), mut here) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(peer.ip(), SOURCE);
    here.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    there.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop((listener, there));
    assert_eq!(here.read(&mut heard).await.unwrap(), 0);
    let error = net
        .connect(None, to)
        .await
        .err()
        .expect("nobody is there any more");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_drips_carries_a_byte_at_a_time() {
    let net = net();
    let listener = net.listen(SocketAddr::new(THERE, 25)).await.unwrap();
    let to = listener.local_addr();
    tokio::spawn(echo(listener));
    net.faults_at(to, Faults::drip(Duration::from_secs(1)));
    let (stream, begun) = (net.connect(None, to).await.unwrap(), Instant::now());
    assert_eq!(echoed(stream, b"0123456789").await.unwrap(), b"0123456789");
    // Nine gaps on the way there, ten bytes on the way back; both ways at once.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(10), "{took:?}");
    assert!(took <= Duration::from_secs(21), "{took:?}");
}

#[tokio::test]
async fn both_nets_carry_a_conversation() {
    a_conversation(&net()).await;
    a_conversation(&LoopbackNet).await;
}

#[tokio::test]
async fn the_loopback_net_reaches_no_other_machine() {
    let beyond = SocketAddr::from(([192, 0, 2, 1], 25));
    assert!(LoopbackNet.connect(None, beyond).await.is_err());
    assert!(
        LoopbackNet
            .listen(SocketAddr::from(([0, 0, 0, 0], 0)))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn many_addresses_share_one_port() {
    let ips: Vec<IpAddr> = (1..=5)
        .map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 10, n)))
        .collect();
    for net in [&net() as &dyn Net, &LoopbackNet] {
        let listeners = listen_on_one_port(net, &ips, 0).await.unwrap();
        let port = listeners[0].local_addr().port();
        for (listener, ip) in listeners.iter().zip(&ips) {
            assert_eq!(listener.local_addr(), SocketAddr::new(*ip, port));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_address_is_refused_and_a_wildcard_hears_all() {
    let net = net();
    let any = SocketAddr::from(([0, 0, 0, 0], 25));
    let listener = net.listen(any).await.unwrap();
    assert_eq!(
        net.listen(any).await.err().unwrap().kind(),
        io::ErrorKind::AddrInUse
    );
    tokio::spawn(echo(listener));
    let stream = net.connect(None, SocketAddr::new(THERE, 25)).await.unwrap();
    assert_eq!(echoed(stream, b"ping").await.unwrap(), b"ping");
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let net = net();
    let to = SocketAddr::new(THERE, 25);
    tokio::spawn(echo(net.listen(to).await.unwrap()));

    net.faults_at(to, Faults::refuse());
    assert_eq!(
        net.connect(None, to).await.err().unwrap().kind(),
        io::ErrorKind::ConnectionRefused
    );

    net.faults_at(to, Faults::stall());
    let mut silent = net.connect(None, to).await.unwrap();
    silent.write_all(b"anybody there?").await.unwrap();
    assert!(timeout(LONG, silent.read(&mut [0; 1])).await.is_err());

    net.faults_at(to, Faults::latency(Duration::from_millis(80)));
    let began = Instant::now();
    let slow = net.connect(None, to).await.unwrap();
    assert_eq!(echoed(slow, b"ping").await.unwrap(), b"ping");
    assert_eq!(began.elapsed().as_millis(), 160);

    net.faults_at(to, Faults::reset_within(10));
    let cut = net.connect(None, to).await.unwrap();
    assert_eq!(
        echoed(cut, &[7; 64]).await.err().unwrap().kind(),
        io::ErrorKind::ConnectionReset
    );

    net.heal(to);
    let well = net.connect(None, to).await.unwrap();
    assert_eq!(echoed(well, b"ping").await.unwrap(), b"ping");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_passes_before_a_reset_is_bounded_and_whole(limit in 0_u64..400, sent in 1_usize..400) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let net = net();
            let to = SocketAddr::new(THERE, 25);
            let listener = net.listen(to).await.unwrap();
            net.faults_at(to, Faults::reset_within(limit));
            let mut here = net.connect(None, to).await.unwrap();
            let (mut there, _) = listener.accept().await.unwrap();
            let bytes: Vec<u8> = (0..sent).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let whole = here.write_all(&bytes).await.is_ok();
            drop(here);
            let mut heard = Vec::new();
            there.read_to_end(&mut heard).await.unwrap();
            assert!(u64::try_from(heard.len()).unwrap() <= limit);
            assert_eq!(heard[..], bytes[..heard.len()]);
            assert_eq!(whole, heard.len() == sent);
        });
    }

    #[test]
    fn equal_seeds_have_equal_fates(seed: u64, refuse in 0.0..1.0_f64, reset in 0.0..1.0_f64) {
        let faults = Faults { refuse, reset, reset_within: 1_000, ..Faults::default() };
        let draw = || {
            let rng = SeededRng::new(seed);
            (0..20).map(|_| faults.draw(&rng)).collect::<Vec<_>>()
        };
        prop_assert_eq!(draw(), draw());
    }
}
