//! Where the master is. In: Sentinels and the master's name. Out: its address, as the first of them that answers knows it.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};

use super::redis_address::{RedisAddress, Server};
use super::redis_url::is_host;

/// Connects without a deadline: that around the whole is the only one.
pub(super) async fn connect(client: RedisResult<Client>) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection = client?.get_multiplexed_async_connection_with_config(&config).await?;
    // A Redis that wants a password hangs up on a long command such as a script's, but says why to a short one.
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// Asks all Sentinels at once: one that hangs costs nothing while another answers.
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
    Err(reason.unwrap_or_else(|| {
        RedisError::from((redis::ErrorKind::InvalidClientConfig, "no Sentinel knows a master of this name"))
    }))
}

/// None where the Sentinel does not know the name, or says what is no address.
async fn ask(address: &RedisAddress, sentinel: &Server, name: &str) -> RedisResult<Option<Server>> {
    let mut connection = connect(address.sentinel(sentinel)).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer: Option<(String, u16)> = command.query_async(&mut connection).await?;
    Ok(answer.filter(|(host, port)| is_host(host) && *port != 0).map(|(host, port)| Server { host, port }))
}
