//! Steps and chores: what is done to blocks, in an order in which whoever is killed leaves no
//! address that two nodes give.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::PoisonError;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use super::Agent;
use crate::model::{BLOCKS_ANNOTATION, Inputs, annotation};
use crate::plan::{Chore, Step};
use crate::resources::{IpamBlock, IpamBlockSpec, Question};
use crate::span::{Span, address, host, is_host, number, overlap};

#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("cannot write block {block}: {source}")]
    Write {
        block: IpNetwork,
        source: Box<kube::Error>,
    },
    #[error("cannot read node {node}: {source}")]
    Node {
        node: String,
        source: Box<kube::Error>,
    },
    #[error("cannot publish the node's blocks: {0}")]
    Publish(Box<kube::Error>),
    #[error("the plugin's memory of addresses: {0}")]
    Local(io::Error),
}

/// The name of a block's object.
pub(super) fn object_name(block: &IpNetwork) -> String {
    let text = block.to_string().replace(['.', ':', '/'], "-");
    format!("block-{text}")
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl Agent {
    fn api(&self) -> Api<IpamBlock> {
        Api::all(self.client.clone())
    }

    /// Does a step; `false` when there is nothing to do but to wait. Another node that was
    /// faster is no fault: what it did is seen, and it is decided anew.
    pub(super) async fn act(&self, step: &Step) -> Result<bool, Failed> {
        match step {
            Step::Claim(block) => self.claim(*block).await.map(|()| true),
            Step::Adopt(block) => self.adopt(*block).await,
            Step::Ask { block, address } => {
                let question = Question {
                    address: address.map(|own| own.to_string()),
                    refused: None,
                };
                let node = self.config.node_name.clone();
                self.change(*block, |spec| drop(spec.asked.insert(node, question)))
                    .await?;
                Ok(true)
            }
            Step::Wait(_) => Ok(false),
        }
    }

    async fn claim(&self, block: IpNetwork) -> Result<(), Failed> {
        let spec = IpamBlockSpec {
            cidr: block.to_string(),
            node: self.config.node_name.clone(),
            ..IpamBlockSpec::default()
        };
        let object = IpamBlock::new(&object_name(&block), spec);
        match self.api().create(&PostParams::default(), &object).await {
            Ok(made) => {
                tracing::info!(%block, "claimed");
                self.sources.learn(block, made);
                Ok(())
            }
            Err(error) if is_code(&error, 409) => {
                tracing::info!(%block, "another node has claimed it first");
                self.look_again(block).await
            }
            Err(error) => Err(self.unsure(block, error)),
        }
    }

    /// Reads the block from the API itself.
    async fn look_again(&self, block: IpNetwork) -> Result<(), Failed> {
        let read = self.api().get_opt(&object_name(&block)).await;
        let read = read.map_err(|source| Failed::Write {
            block,
            source: Box::new(source),
        })?;
        match read {
            Some(there) => self.sources.learn(block, there),
            None => {
                let before = self.sources.block(&block);
                let version = before.and_then(|own| own.resource_version());
                self.sources.learn_gone(block, version);
            }
        }
        self.doubts().remove(&block);
        Ok(())
    }

    fn doubts(&self) -> std::sync::MutexGuard<'_, BTreeSet<IpNetwork>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write that failed may have been done: until the block is read again, nothing of it that
    /// was withdrawn is admitted.
    fn unsure(&self, block: IpNetwork, error: kube::Error) -> Failed {
        self.doubts().insert(block);
        Failed::Write {
            block,
            source: Box::new(error),
        }
    }

    /// Only once the API itself says that the node is gone: the cache may not know a new one.
    async fn adopt(&self, block: IpNetwork) -> Result<bool, Failed> {
        let inputs = self.inputs();
        let Some(there) = inputs.blocks.get(&block) else {
            return Ok(true);
        };
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = nodes.get_opt(&there.node).await;
        let found = found.map_err(|source| Failed::Node {
            node: there.node.clone(),
            source: Box::new(source),
        })?;
        if found.is_some() {
            return Ok(false);
        }
        let own = self.config.node_name.clone();
        let before = there.node.clone();
        self.change(block, |spec| {
            if spec.node == before {
                spec.asked.remove(&own);
                spec.node = own;
            }
        })
        .await?;
        tracing::info!(%block, from = before, "adopted from a node that is gone");
        Ok(true)
    }

    /// Changes a block as this node sees it; `false` when it was another one by then.
    async fn change(
        &self,
        block: IpNetwork,
        change: impl FnOnce(&mut IpamBlockSpec),
    ) -> Result<bool, Failed> {
        let Some(mut object) = self.sources.block(&block) else {
            return Ok(false);
        };
        change(&mut object.spec);
        object.metadata.managed_fields = None;
        let name = object.name_any();
        match self
            .api()
            .replace(&name, &PostParams::default(), &object)
            .await
        {
            Ok(made) => {
                self.sources.learn(block, made);
                Ok(true)
            }
            Err(error) if is_code(&error, 409) || is_code(&error, 404) => {
                tracing::debug!(%block, "somebody else has changed it first");
                self.look_again(block).await.map(|()| false)
            }
            Err(error) => Err(self.unsure(block, error)),
        }
    }

    /// Says in the Node which blocks and addresses it has.
    pub(super) async fn publish(&self, inputs: &Inputs) -> Result<(), Failed> {
        let wanted = annotation(&inputs.published());
        self.publish_text(&wanted).await
    }

    pub(super) fn is_published(&self, inputs: &Inputs) -> bool {
        let said = self.sources.published(&self.config.node_name);
        said.is_some_and(|text| text == annotation(&inputs.published()))
    }

    async fn publish_text(&self, wanted: &str) -> Result<(), Failed> {
        if self.sources.published(&self.config.node_name).as_deref() == Some(wanted) {
            return Ok(());
        }
        let value = Some(wanted).filter(|text| !text.is_empty());
        let patch =
            serde_json::json!({ "metadata": { "annotations": { BLOCKS_ANNOTATION: value } } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.node_name;
        nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(|error| Failed::Publish(Box::new(error)))
    }

    /// Brings the plugin's memory in line with what the node has. Only in a step's turn: what is
    /// being lent or released is withdrawn and still ours.
    pub(super) async fn settle(&self) {
        let withdrawn = match self.blocking(|local| local.withdrawn()).await {
            Ok(withdrawn) => withdrawn,
            Err(error) => {
                tracing::warn!(%error, "what pods may not get cannot be read");
                return;
            }
        };
        let doubts: Vec<IpNetwork> = self.doubts().iter().copied().collect();
        for block in doubts {
            if let Err(error) = self.look_again(block).await {
                tracing::warn!(%error, "it is not known yet what became of the block");
            }
        }
        let inputs = &self.inputs();
        let doubts = self.doubts().clone();
        let sure = |network: &IpNetwork| !doubts.iter().any(|block| overlap(block, network));
        for block in to_split(inputs, &withdrawn) {
            if let Err(error) = self.split(inputs, block).await {
                tracing::warn!(%error, %block, "what is borrowed of it is not given yet");
            }
        }
        let ours = |network: &IpNetwork| sure(network) && is_ours(inputs, network);
        for network in withdrawn.into_iter().filter(ours) {
            if let Err(error) = self.blocking(move |local| local.admit(network)).await {
                tracing::warn!(%error, %network, "pods do not get its addresses yet");
            }
        }
    }

    /// A block that this node once had, and of which it now borrows: the mark on the whole becomes
    /// marks on all the others.
    async fn split(&self, inputs: &Inputs, block: IpNetwork) -> Result<(), Failed> {
        let borrowed: BTreeSet<IpAddr> = inputs.borrowed().collect();
        let done = self.blocking(move |local| {
            for other in block.iter().filter(|own| !borrowed.contains(own)) {
                local.withdraw(host(other))?;
            }
            local.admit(block)
        });
        done.await
    }

    /// Each chore looks at what the one before has made: of two nodes that ask for an address of
    /// one block the second must not get what was just lent to the first.
    pub(super) async fn do_chore(&self, chore: &Chore) -> Result<(), Failed> {
        let inputs = &self.inputs();
        match chore {
            Chore::Release(block) => self.release(inputs, *block).await,
            Chore::Return { block, address } => {
                let single = host(*address);
                if !self.blocking(move |local| local.withdraw(single)).await? {
                    return Ok(());
                }
                let (text, own) = (address.to_string(), self.config.node_name.clone());
                self.change(*block, |spec| {
                    if spec.lent.get(&text) == Some(&own) {
                        spec.lent.remove(&text);
                    }
                })
                .await?;
                self.publish(&self.inputs()).await
            }
            Chore::TakeBack(block) => {
                let own = self.config.node_name.clone();
                self.change(*block, |spec| drop(spec.asked.remove(&own)))
                    .await
                    .map(drop)
            }
            Chore::Lend { block, to, address } => self.lend(inputs, *block, to, *address).await,
        }
    }

    /// The plugin first, then the routes, then the object: nobody claims what still leads here.
    async fn release(&self, inputs: &Inputs, block: IpNetwork) -> Result<(), Failed> {
        if !self.blocking(move |local| local.withdraw(block)).await? {
            return Ok(());
        }
        let mut left = inputs.published();
        left.remove(&block);
        self.publish_text(&annotation(&left)).await?;
        let Some(object) = self.sources.block(&block) else {
            return Ok(());
        };
        let only_this = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: object.resource_version(),
                uid: object.uid(),
            }),
            ..DeleteParams::default()
        };
        match self.api().delete(&object.name_any(), &only_this).await {
            Ok(_) => {
                tracing::info!(%block, "released");
                self.sources.learn_gone(block, object.resource_version());
                Ok(())
            }
            // Somebody asks for an address of it: it is kept, and admitted with the next look.
            Err(error) if is_code(&error, 409) || is_code(&error, 404) => {
                self.look_again(block).await
            }
            Err(error) => Err(self.unsure(block, error)),
        }
    }

    async fn lend(
        &self,
        inputs: &Inputs,
        block: IpNetwork,
        to: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Failed> {
        let candidates = match address {
            Some(one) => vec![one],
            None => free_from_the_end(inputs, block),
        };
        let lent = candidates.clone();
        let found = self
            .blocking(move |local| {
                for one in lent {
                    if local.withdraw(host(one))? {
                        return Ok(Some(one));
                    }
                }
                Ok(None)
            })
            .await?;
        let to = to.to_owned();
        let changed = self.change(block, |spec| match found {
            Some(one) => {
                spec.asked.remove(&to);
                // An address that somebody has stays his.
                spec.lent.entry(one.to_string()).or_insert(to);
            }
            None => {
                if let Some(question) = spec.asked.get_mut(&to) {
                    let why = match address {
                        Some(_) => "a pod has it",
                        None => "none is free",
                    };
                    question.refused = Some(why.to_owned());
                }
            }
        });
        if !changed.await? {
            // What was withdrawn in vain is admitted before a pod finds the block full.
            self.settle().await;
        }
        Ok(())
    }
}

/// The addresses of a block that could be lent, the last first: the plugin begins at the other
/// end.
fn free_from_the_end(inputs: &Inputs, block: IpNetwork) -> Vec<IpAddr> {
    let mut holes = inputs.reserved.clone();
    if let Some(there) = inputs.blocks.get(&block) {
        holes.extend(there.lent.keys().copied().map(host));
    }
    let spans = Span::usable(block).without(&holes);
    let each = spans.iter().rev().flat_map(|span| {
        let ipv4 = span.first.is_ipv4();
        let numbers = number(span.first)..=number(span.last);
        numbers.rev().map(move |own| address(own, ipv4))
    });
    each.collect()
}

/// Whole blocks that are another node's and of which this one borrows.
fn to_split(inputs: &Inputs, withdrawn: &BTreeSet<IpNetwork>) -> Vec<IpNetwork> {
    let lends = |block: &&IpNetwork| {
        let own = inputs.own_blocks().any(|(cidr, _)| cidr == *block);
        !is_host(block) && !own && inputs.borrowed().any(|address| block.contains(address))
    };
    withdrawn.iter().filter(lends).copied().collect()
}

/// Whether pods of this node may get addresses of a network.
fn is_ours(inputs: &Inputs, network: &IpNetwork) -> bool {
    if !is_host(network) {
        return inputs.own_blocks().any(|(cidr, _)| cidr == network);
    }
    let single = network.ip();
    let borrowed: BTreeSet<IpAddr> = inputs.borrowed().collect();
    borrowed.contains(&single)
        || inputs
            .own_blocks()
            .any(|(cidr, block)| cidr.contains(single) && !block.lent.contains_key(&single))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_by_their_range() {
        let name = |text: &str| object_name(&text.parse().unwrap());
        assert_eq!(name("10.1.0.64/26"), "block-10-1-0-64-26");
        assert_eq!(name("fd00:1::/122"), "block-fd00-1---122");
    }
}
