//! What the operators may do. In: their accounts. Out: each rule that they need and do not have.

use futures::{StreamExt, stream};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client, Config};

use super::operators::Installed;
use super::{Diagnosis, State, ask};
use crate::controller::rbac::{OWN_RULES, RULES, Rule};
use crate::controller::request::qualified;

/// Requests at once.
const AT_ONCE: usize = 8;

/// Asks, as the operator, whether it may do what it has to.
pub(super) async fn look(client: &Client, config: &Config, operators: &[Installed], found: &mut Diagnosis) {
    let me = ask(Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default()))
    .await;
    let me = me.ok().and_then(|review| review.status?.user_info?.username).unwrap_or_default();
    for operator in operators {
        let user = operator.user();
        let asking = if me == user { Ok(client.clone()) } else { impersonate(config, &user) };
        let Ok(asking) = asking else { continue };
        match missing(&asking, operator).await {
            Ok((all, missing)) if missing.is_empty() => {
                found.check("permissions", State::Well, format!("{user} has all {all}"));
            }
            Ok((all, missing)) => {
                found.check("permissions", State::Ill, format!("{user} lacks {} of {all}", missing.len()));
                found.problem(
                    format!("The operator's account {user} lacks permissions."),
                    missing.join("\n"),
                    "helm upgrade the operator's chart, whose roles hold every rule it needs (with rbac.create=false: add these rules to yours)",
                );
            }
            Err(error) => found.check(
                "permissions",
                State::Unknown,
                format!("{error}. In its pod it can be asked: kubectl -n {} exec deployment/{} -- /chatservice doctor", operator.namespace, operator.name),
            ),
        }
    }
}

fn impersonate(config: &Config, user: &str) -> kube::Result<Client> {
    let mut config = config.clone();
    config.auth_info.impersonate = Some(user.to_owned());
    Client::try_from(config)
}

/// How many permissions there have to be, and those that are missing, in words.
async fn missing(client: &Client, operator: &Installed) -> Result<(usize, Vec<String>), String> {
    let mut wanted = Vec::new();
    let everywhere = [String::new()];
    let scopes: &[String] = if operator.watches.is_empty() { &everywhere } else { &operator.watches };
    for namespace in scopes {
        wanted.extend(single(RULES, namespace, ""));
    }
    wanted.extend(single(OWN_RULES, &operator.namespace, &operator.lease));
    let api: &Api<SelfSubjectAccessReview> = &Api::all(client.clone());
    let answers: Vec<Result<Option<String>, kube::Error>> = stream::iter(wanted)
        .map(|attributes| async move {
            let place = match attributes.namespace.as_deref() {
                Some("") | None => "in all namespaces".to_owned(),
                Some(namespace) => format!("in namespace \"{namespace}\""),
            };
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let resource = qualified(&text(&attributes.group), &text(&attributes.resource));
            let subresource =
                attributes.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
            let line = format!("It may not {} {resource}{subresource} {place}.", text(&attributes.verb));
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = ask(api.create(&PostParams::default(), &review)).await?;
            Ok(answer.status.is_none_or(|status| !status.allowed).then_some(line))
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let all = answers.len();
    let mut missing = Vec::new();
    for answer in answers {
        match answer {
            Ok(line) => missing.extend(line),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                return Err(
                    "you may not impersonate the operator's account, so its permissions were not looked at"
                        .to_owned(),
                );
            }
            Err(error) => return Err(format!("its permissions cannot be asked for: {error}")),
        }
    }
    Ok((all, missing))
}

/// Rules as single questions. `name`: the only object that is meant; none for what has no name when it is made.
fn single(rules: &[Rule], namespace: &str, name: &str) -> Vec<ResourceAttributes> {
    let mut all = Vec::new();
    for rule in rules {
        for &resource in rule.resources {
            let (resource, subresource) = match resource.split_once('/') {
                Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
                None => (resource, None),
            };
            all.extend(rule.verbs.iter().map(|&verb| ResourceAttributes {
                group: Some(rule.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.clone(),
                verb: Some(verb.to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()).filter(|name| !name.is_empty() && verb != "create"),
                ..ResourceAttributes::default()
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_single_questions() {
        let questions = single(RULES, "chat", "");
        let status = questions.iter().find(|question| question.subresource.is_some()).unwrap();
        assert_eq!(status.resource.as_deref(), Some("chatservices"));
        assert_eq!(status.subresource.as_deref(), Some("status"));
        let expected: usize = RULES.iter().map(|rule| rule.resources.len() * rule.verbs.len()).sum();
        assert_eq!(questions.len(), expected);
        let lease = single(OWN_RULES, "system", "op");
        assert!(lease.iter().all(|q| (q.verb.as_deref() == Some("create")) == q.name.is_none()));
    }
}
