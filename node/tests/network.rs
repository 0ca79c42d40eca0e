//! The network room over loopback: Ada, Ben and Cleo are three devices on one machine.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod nodes;

use std::time::{Duration, Instant};

use karte_node::network::{Limits, Multiaddr, NetConfig, NetError, NetEvent, ReachConfig, start};
use libp2p::multiaddr::Protocol;
use nodes::{MIB, Node, QUIC, SOON, TCP, device, node, node_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Ada called Ben; both have told so.
async fn ada_and_ben(listen: &str) -> (Node, Node) {
    let (mut ada, mut ben) = (node(1, &[listen]).await, node(2, &[listen]).await);
    ada.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
    ada.expect_connected(&ben.device, true).await;
    ben.expect_connected(&ada.device, false).await;
    (ada, ben)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_talk_over_quic_and_over_tcp() {
    for listen in [QUIC, TCP] {
        let began = Instant::now();
        let (ada, ben) = ada_and_ben(listen).await;
        println!("{listen}: connected in {:?}", began.elapsed());
        ada.network.connect(ben.device, Vec::new()).await.expect("already connected is success");
        assert_eq!(ada.network.connected().await[0].0, ben.device);
        let (peer, network) = (ben.device, ada.network.clone());
        let _ben = ben.echo();
        assert_eq!(network.request(peer, b"abc".to_vec()).await.unwrap(), b"cba");
        assert_eq!(network.request(peer, Vec::new()).await.unwrap(), b"");
        let began = Instant::now();
        let largest: Vec<u8> = (0..=250u8).cycle().take(MIB).collect();
        let mut answer = network.request(peer, largest.clone()).await.expect("1 MiB is allowed");
        println!("{listen}: 1 MiB there and back in {:?}", began.elapsed());
        answer.reverse();
        assert!(answer == largest, "the largest body comes back whole");
        let refused = network.request(peer, vec![0; MIB + 1]).await;
        let (bytes, bytes_max) = (MIB as u64 + 1, u32::try_from(MIB).unwrap());
        assert_eq!(refused, Err(NetError::RequestTooLarge { bytes, bytes_max }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_are_offered_tcp_is_taken() {
    let (ada, ben) = (node(1, &[]).await, node(2, &[QUIC, TCP]).await);
    ada.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
    let address = ada.network.connected().await[0].1.to_string();
    assert!(address.contains("/tcp/"), "payloads move faster over TCP: {address}");
    let quic = ben.addresses.iter().filter(|address| address.to_string().contains("quic")).cloned();
    let cleo = node(3, &[]).await;
    let blocked: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    cleo.network.connect(ben.device, [blocked].into_iter().chain(quic).collect()).await.unwrap();
    let address = cleo.network.connected().await[0].1.to_string();
    assert!(address.contains("/quic-v1"), "where TCP is blocked QUIC serves: {address}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_larger_limits_is_refused_by_ours() {
    for listen in [QUIC, TCP] {
        let generous =
            Limits { request_bytes_max: 4 << 20, response_bytes_max: 4 << 20, ..Limits::default() };
        let (ada, ben) = (node_with(1, &[listen], generous).await, node(2, &[listen]).await);
        let (network, peer) = (ada.network.clone(), ben.device);
        network.connect(peer, ben.addresses.clone()).await.unwrap();
        let ben_network = ben.echo();
        let refused = network.request(peer, vec![0; 2 * MIB]).await;
        assert!(matches!(refused, Err(NetError::NoReply | NetError::Io { .. })), "{refused:?}");
        assert_eq!(network.request(peer, vec![7]).await.unwrap(), [7], "the connection survives");
        let mut ada = ada;
        let answering = tokio::spawn(async move {
            loop {
                if let NetEvent::Request { reply, .. } = ada.next().await {
                    return reply.send(vec![0; 2 * MIB]);
                }
            }
        });
        let refused = ben_network.request(device(1), vec![1]).await;
        let (bytes, bytes_max) = (2 * MIB as u64, u32::try_from(MIB).unwrap());
        assert_eq!(refused, Err(NetError::ResponseTooLarge { bytes, bytes_max }));
        answering.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_reply_fails_promptly() {
    let (ada, mut ben) = ada_and_ben(TCP).await;
    let asking = tokio::spawn(async move { ada.network.request(device(2), vec![1]).await });
    let NetEvent::Request { reply, .. } = ben.next().await else { panic!("a request was due") };
    let began = Instant::now();
    drop(reply);
    assert_eq!(asking.await.unwrap(), Err(NetError::NoReply));
    assert!(began.elapsed() < Duration::from_secs(1), "prompt, not after the timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_request_times_out_by_name() {
    let hasty = Limits { request_timeout: Duration::from_secs(1), ..Limits::default() };
    let (ada, mut ben) = (node_with(1, &[], hasty).await, node(2, &[QUIC]).await);
    ada.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
    ben.expect_connected(&ada.device, false).await;
    let answer = ada.network.request(ben.device, vec![1]).await;
    assert_eq!(answer, Err(NetError::RequestTimeout { after: Duration::from_secs(1) }));
    assert_eq!(answer.unwrap_err().to_string(), "no answer within 1 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_is_wrong() {
    let (ada, ben) = (node(1, &[TCP]).await, node(2, &[TCP, QUIC]).await);
    let cleo = node(3, &[TCP]).await;
    assert_eq!(ada.network.request(ben.device, vec![1]).await, Err(NetError::NotConnected));
    assert_eq!(ada.network.open_stream(ben.device).await.err(), Some(NetError::NotConnected));
    assert_eq!(ada.network.connect(ben.device, vec![]).await, Err(NetError::NoAddresses));
    let wrong = ada.network.connect(cleo.device, ben.addresses.clone()).await;
    assert!(matches!(wrong, Err(NetError::WrongPeer { .. })), "{wrong:?}");
    println!("{}", wrong.unwrap_err());
    assert!(ada.network.connected().await.is_empty(), "an impostor is no connection");
    let dead: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let odd: Multiaddr = "/memory/5".parse().unwrap();
    let unreachable = ada.network.connect(cleo.device, vec![dead.clone(), odd]).await.unwrap_err();
    println!("{unreachable}");
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
    let mixed = [ben.addresses.clone(), vec![dead], cleo.addresses.clone()].concat();
    ada.network.connect(cleo.device, mixed).await.expect("the one right address among wrong ones is found");
    let off_curve = std::array::from_fn(|index| if index == 0 { 2 } else { 0 });
    assert_eq!(ada.network.connect(off_curve, vec![]).await, Err(NetError::NotDevice));
    for address in ben.addresses.clone() {
        let taken = NetConfig {
            key: Zeroizing::new([9; 32]),
            listen: vec![address],
            agent: String::new(),
            limits: Limits::default(),
            reach: ReachConfig::default(),
        };
        let taken = start(taken).err().expect("the port is taken");
        println!("{taken}");
        assert!(matches!(taken, NetError::Listen { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_in_order_and_fast() {
    for listen in [QUIC, TCP] {
        let (ada, mut ben) = ada_and_ben(listen).await;
        let mut stream = ada.network.open_stream(ben.device).await.unwrap();
        let mut theirs = ben.expect_stream().await;
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            let mut frame = vec![0; MIB];
            for number in 0..64_u8 {
                frame.fill(number);
                stream.send(&frame).await.unwrap();
            }
            stream.close().await.unwrap();
            assert_eq!(stream.recv().await.unwrap().unwrap(), b"thanks");
            assert_eq!(stream.recv().await, Ok(None));
        });
        for number in 0..64_u8 {
            let frame = theirs.recv().await.unwrap().expect("64 frames come");
            assert!(frame.len() == MIB && frame.iter().all(|byte| *byte == number), "frame {number}");
        }
        assert_eq!(theirs.recv().await, Ok(None), "a clean end");
        let elapsed = began.elapsed();
        println!("{listen}: 64 MiB in {elapsed:?}, {:.0} MiB/s", 64.0 / elapsed.as_secs_f64());
        let (mut sender, _receiver) = theirs.split();
        sender.send(b"thanks").await.unwrap();
        sender.close().await.unwrap();
        sending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_how_it_ended() {
    for listen in [QUIC, TCP] {
        let (ada, mut ben) = ada_and_ben(listen).await;
        let mut stream = ada.network.open_stream(ben.device).await.unwrap();
        let mut theirs = ben.expect_stream().await;
        let too_large = stream.send(&vec![0; 2 * MIB + 1]).await;
        assert!(matches!(too_large, Err(NetError::FrameTooLarge { .. })), "{too_large:?}");
        stream.send(b"").await.unwrap();
        let large = vec![3; MIB];
        let half_sent = timeout(Duration::from_millis(1), async {
            for _ in 0..64 {
                stream.send(&large).await.unwrap();
            }
        });
        assert!(half_sent.await.is_err(), "nobody reads, so sending waits");
        assert_eq!(theirs.recv().await, Ok(Some(Vec::new())), "an empty frame is a frame");
        assert_eq!(stream.send(b"more").await, Err(NetError::StreamCut), "a torn frame ends the stream");
        drop(stream);
        let end = loop {
            // A reader that is interrupted again and again loses nothing.
            match timeout(Duration::from_micros(50), theirs.recv()).await {
                Ok(Ok(Some(frame))) => assert!(frame == large, "whole frames only"),
                Ok(end) => break end,
                Err(_) => {}
            }
        };
        assert!(matches!(end, Err(NetError::StreamCut | NetError::Io { .. })), "a cut is no end: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_streams_at_once_all_arrive() {
    for listen in [QUIC, TCP] {
        let (ada, mut ben) = ada_and_ben(listen).await;
        let opening = (0..20_u8).map(|number| {
            let network = ada.network.clone();
            tokio::spawn(async move {
                let mut stream = network.open_stream(device(2)).await.unwrap();
                stream.send(&[number]).await.unwrap();
                stream.close().await.unwrap();
                assert_eq!(stream.recv().await, Ok(None));
            })
        });
        let opening: Vec<_> = opening.collect();
        let mut seen = Vec::new();
        for _ in 0..20 {
            let mut stream = ben.expect_stream().await;
            seen.push(stream.recv().await.unwrap().unwrap()[0]);
            stream.close().await.unwrap();
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<u8>>());
        for open in opening {
            open.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_slots_and_a_busy_reader_refuses() {
    let few = Limits { streams_per_peer_max: 2, ..Limits::default() };
    let (ada, mut ben) = (node_with(1, &[], few.clone()).await, node_with(2, &[TCP], few).await);
    ada.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
    ben.expect_connected(&ada.device, false).await;
    let first = ada.network.open_stream(ben.device).await.unwrap();
    let _second = ada.network.open_stream(ben.device).await.unwrap();
    let third = ada.network.open_stream(ben.device).await;
    assert_eq!(third.err(), Some(NetError::TooManyStreams { count_max: 2 }));
    drop(first);
    drop(ben.expect_stream().await);
    ada.network.open_stream(ben.device).await.expect("a dropped stream frees its slot");

    let narrow = Limits { events_queue_max: 1, ..Limits::default() };
    let cleo = node_with(3, &[TCP], narrow).await;
    ada.network.connect(cleo.device, cleo.addresses.clone()).await.unwrap();
    assert_eq!(ada.network.open_stream(cleo.device).await.err(), Some(NetError::StreamRefused));
    let with_a_word = ada.network.open_stream_with(cleo.device, b"first").await;
    assert_eq!(with_a_word.err(), Some(NetError::StreamRefused));
    assert_eq!(ada.network.request(cleo.device, vec![1]).await, Err(NetError::NoReply));
    let _cleo = cleo.echo();
    ada.network.open_stream(device(3)).await.expect("a reader that reads again makes room");
    assert_eq!(ada.network.request(device(3), vec![1]).await.unwrap(), [1]);
}

/// Nothing is waited for before a request goes out, nor before the first frame of a stream: with 200 ms of round trip each
/// wait is 200 ms.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_arrives_although_nothing_comes_back() {
    let (ada, mut ben) = (node(1, &[]).await, node(2, &[TCP]).await);
    let gate = Gate::before(&ben.addresses[0]).await;
    ada.network.connect(ben.device, vec![gate.address.clone()]).await.unwrap();
    ben.expect_connected(&ada.device, false).await;
    gate.back.send_replace(false);
    let network = ada.network.clone();
    let asking = tokio::spawn(async move { network.request(device(2), vec![1, 2]).await });
    let NetEvent::Request { body, reply, .. } = ben.next().await else { panic!("a request was due") };
    assert_eq!(body, [1, 2]);
    let network = ada.network.clone();
    let opening = tokio::spawn(async move { network.open_stream_with(device(2), b"first").await });
    let mut theirs = ben.expect_stream().await;
    assert_eq!(timeout(SOON, theirs.recv()).await.unwrap().unwrap().unwrap(), b"first");
    assert!(!asking.is_finished() && !opening.is_finished(), "nothing has come back");
    reply.send(vec![3]).unwrap();
    theirs.send(b"answer").await.unwrap();
    gate.back.send_replace(true);
    assert_eq!(asking.await.unwrap().unwrap(), [3]);
    let mut stream = opening.await.unwrap().expect("the stream was taken");
    assert_eq!(stream.recv().await.unwrap().unwrap(), b"answer");
    stream.send(b"second").await.unwrap();
    assert_eq!(theirs.recv().await.unwrap().unwrap(), b"second", "the first was sent once");
}

/// Carries bytes to a node, and back as long as it may.
struct Gate {
    address: Multiaddr,
    back: watch::Sender<bool>,
}

impl Gate {
    async fn before(node: &Multiaddr) -> Self {
        let port = node.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
        let (back, mut may_pass) = watch::channel(true);
        tokio::spawn(async move {
            let (caller, _) = listener.accept().await.unwrap();
            let (mut from_caller, mut to_caller) = caller.into_split();
            let node = TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap();
            let (mut from_node, mut to_node) = node.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_caller, &mut to_node).await });
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_node.read(&mut bytes).await {
                may_pass.wait_for(|may| *may).await.unwrap();
                to_caller.write_all(&bytes[..count]).await.unwrap();
            }
        });
        Self { address: address.parse().unwrap(), back }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_may_call_at_once() {
    for listen in [QUIC, TCP] {
        let (mut ada, mut ben) = (node(1, &[listen]).await, node(2, &[listen]).await);
        let (to_ben, to_ada) = tokio::join!(
            ada.network.connect(ben.device, ben.addresses.clone()),
            ben.network.connect(ada.device, ada.addresses.clone()),
        );
        to_ben.unwrap();
        to_ada.unwrap();
        for (node, peer) in [(&mut ada, device(2)), (&mut ben, device(1))] {
            assert!(matches!(node.next().await, NetEvent::Connected { peer: came, .. } if came == peer));
            node.expect_silence().await;
        }
        ada.network.disconnect(ben.device).await;
        assert!(ada.network.connected().await.is_empty(), "disconnect closes every connection");
        for (node, peer) in [(&mut ada, device(2)), (&mut ben, device(1))] {
            node.expect_disconnected(&peer).await;
            node.expect_silence().await;
        }
        ada.network.connect(ben.device, ben.addresses.clone()).await.expect("and may call again at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_says_goodbye() {
    for listen in [QUIC, TCP] {
        let (mut ada, mut ben) = ada_and_ben(listen).await;
        let clone = ada.network.clone();
        let mut stream = ben.network.open_stream(ada.device).await.unwrap();
        let waiting = tokio::spawn({
            let network = ben.network.clone();
            async move { network.request(device(1), vec![1]).await }
        });
        while !matches!(ada.next().await, NetEvent::Request { .. }) {}
        let began = Instant::now();
        ada.network.shutdown().await;
        println!("{listen}: shut down in {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(1), "an orderly end needs no timeout");
        assert_eq!(clone.request(ben.device, vec![]).await, Err(NetError::Closed));
        ben.expect_disconnected(&ada.device).await;
        assert!(waiting.await.unwrap().is_err());
        assert!(stream.recv().await.is_err(), "a goodbye is not the end of a stream");
        while ada.events.recv().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_peers_cannot_crowd_in() {
    for listen in [QUIC, TCP] {
        let two = Limits { connections_in_max: 2, ..Limits::default() };
        let ben = node_with(2, &[listen], two).await;
        let mut crowd = Vec::new();
        for seed in 10..16 {
            let stranger = node(seed, &[]).await;
            // The stranger's own handshake may succeed before it is turned away.
            let _ = stranger.network.connect(ben.device, ben.addresses.clone()).await;
            assert!(ben.network.connected().await.len() <= 2, "never more than the limit");
            crowd.push(stranger);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut inside = 0;
        for stranger in &crowd {
            inside += stranger.network.connected().await.len();
        }
        assert_eq!(inside, 2, "the first two stay, the others are turned away");
        crowd.remove(0).network.shutdown().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let late = node(20, &[]).await;
        late.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
        let _ben = ben.echo();
        assert_eq!(late.network.request(device(2), vec![5]).await.unwrap(), [5], "a free place is free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calling_and_leaving_again_and_again_is_told_each_time() {
    for listen in [QUIC, TCP] {
        let (mut ada, mut ben) = (node(1, &[listen]).await, node(2, &[listen]).await);
        for _ in 0..30 {
            ada.network.connect(ben.device, ben.addresses.clone()).await.unwrap();
            let mut stream = ada.network.open_stream(ben.device).await.unwrap();
            ada.expect_connected(&ben.device, true).await;
            ben.expect_connected(&ada.device, false).await;
            let mut theirs = ben.expect_stream().await;
            theirs.send(b"hello").await.unwrap();
            assert_eq!(stream.recv().await.unwrap().unwrap(), b"hello");
            ben.network.disconnect(ada.device).await;
            ada.expect_disconnected(&ben.device).await;
            ben.expect_disconnected(&ada.device).await;
            assert!(stream.recv().await.is_err(), "the stream ended with its connection");
        }
    }
}

/// Regression: calling from the port one listens on, two TCP nodes that called each other at the same moment
/// met in one connection, both as callers, and both failed (21 of 60 times).
#[tokio::test(flavor = "multi_thread")]
async fn calling_each_other_at_the_same_moment_never_fails() {
    for listen in [QUIC, TCP] {
        for _ in 0..30 {
            let (ada, ben) = (node(1, &[listen]).await, node(2, &[listen]).await);
            let (to_ben, to_ada) = tokio::join!(
                ada.network.connect(ben.device, ben.addresses.clone()),
                ben.network.connect(ada.device, ada.addresses.clone()),
            );
            assert_eq!((to_ben, to_ada), (Ok(()), Ok(())));
        }
    }
}
