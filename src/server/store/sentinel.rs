//! Where the master is. In: Sentinels and the master's name. Out: its address, as the first of them that answers knows it.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{ErrorKind, RedisError, RedisResult};

use super::node::connect;
use super::redis_address::{RedisAddress, Server};

/// Asks all Sentinels at once: one that hangs costs nothing while another answers. Has no deadline of its own.
pub(super) async fn master(address: &RedisAddress, name: &str) -> RedisResult<Server> {
    let mut asked: FuturesUnordered<_> =
        address.servers().iter().map(|sentinel| ask(address, sentinel, name)).collect();
    let mut reason = None;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => {}
            Err(error) => reason = Some(error),
        }
    }
    Err(reason
        .unwrap_or_else(|| RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no such master"))))
}

/// None where the Sentinel does not know the name, or says what is no address.
async fn ask(address: &RedisAddress, sentinel: &Server, name: &str) -> RedisResult<Option<Server>> {
    let mut connection = connect(address.sentinel(sentinel)?).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer: Option<(String, u16)> = command.query_async(&mut connection).await?;
    let master = answer.and_then(|(host, port)| Server::told(&host, port));
    Ok(master.map(|master| master.or_on(&sentinel.host)))
}
