//! Topics and subscriptions.

use posthouse::{
    Error, ErrorKind, HeaderFilter, Offset, Start, Subscription, SubscriptionBuilder, Topic, sim,
};

use super::{Driver, Handle, LEASE, Whose, durability, text};
use crate::{
    action::{How, Name},
    state::{FILTERED, FilterState, Msg, ORDERED, RETAINED_ALL, SubscriptionState},
};

/// A subscription with a filter.
fn filtered(mut builder: SubscriptionBuilder, filter: &FilterState) -> SubscriptionBuilder {
    for pattern in &filter.patterns {
        builder = builder.pattern(pattern);
    }
    for header in &filter.headers {
        builder = match header {
            HeaderFilter::Exists { name } => builder.header_exists(name),
            HeaderFilter::Prefix { name, prefix } => builder.header_prefix(name, prefix.clone()),
            other => panic!("{other:?} is none of the filters"),
        };
    }
    builder
}

impl Driver<'_> {
    pub(super) fn topic(&self, name: &str) -> Result<Topic, Error> {
        self.engine().topic(name).open()
    }

    pub(super) fn subscription(&self, topic: &str, name: &str) -> Result<Subscription, Error> {
        let open = || Ok(Handle::Subscription(self.topic(topic)?.subscription(name).open()?));
        match self.handle(Whose::Subscription(topic.to_owned(), name.to_owned()), open)? {
            Handle::Subscription(subscription) => Ok(subscription),
            Handle::Queue(_) => unreachable!("a subscription has subscriptions"),
        }
    }

    pub(super) fn create_topic(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("topic", name);
        let made = self.engine().topic(&name).create().map(drop);
        self.commit(made, |state| {
            state.topics.entry(name).or_default();
        })
    }

    pub(super) fn delete_topic(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("topic", name);
        if !self.now().topics.contains_key(&name) {
            let error = self.engine().topic(&name).delete();
            return self.expect(error, ErrorKind::NotFound);
        }
        let of = |whose: &Whose| matches!(whose, Whose::Subscription(topic, _) if *topic == name);
        self.forget_held(of);
        let gone = self.engine().topic(&name).delete();
        self.commit(gone, |state| drop(state.topics.remove(&name)))
    }

    pub(super) fn subscribe(&mut self, topic: Name, name: Name) -> Result<Option<()>, Error> {
        let (topic, name) = (text("topic", topic), text("subscription", name));
        let there = self.now().topics.get(&topic);
        let Some(there) = there.map(|it| it.subscriptions.contains_key(&name)) else {
            return Ok(Some(()));
        };
        let filter = FilterState::number(u8::from(name == FILTERED && !there));
        let made = self.topic(&topic).and_then(|topic| {
            let builder = topic.subscription(&name).lease(LEASE).backoff(posthouse::Backoff::None);
            filtered(builder, &filter).ordered_by_key(name == ORDERED).create().map(drop)
        });
        self.commit(made, |state| {
            let topic = state.topics.get_mut(&topic).unwrap();
            topic
                .subscriptions
                .entry(name)
                .or_insert(SubscriptionState { filter, ..Default::default() });
        })
    }

    pub(super) fn retain(&mut self, topic: Name, n: u8) -> Result<Option<()>, Error> {
        // Only one of the topics comes to its limit: then nobody knows what who comes late gets.
        let limit = if topic == 1 { 3 } else { RETAINED_ALL };
        let (name, retains) = (text("topic", topic), (!n.is_multiple_of(4)).then_some(limit));
        if !self.now().topics.contains_key(&name) {
            return Ok(Some(()));
        }
        let builder = self.engine().topic(&name);
        let builder = match retains {
            Some(limit) => builder.retain_messages(limit),
            None => builder.without_retention(),
        };
        let changed = builder.create_or_update().map(drop);
        self.commit(changed, |state| state.topics.get_mut(&name).unwrap().retain(retains))
    }

    pub(super) fn subscribe_late(
        &mut self,
        topic: Name,
        name: Name,
        n: u8,
    ) -> Result<Option<()>, Error> {
        if self.unsubscribe(topic, name)?.is_none() {
            return Ok(None);
        }
        let (topic, name) = (text("topic", topic), text("subscription", name));
        let Some(there) = self.now().topics.get(&topic) else { return Ok(Some(())) };
        if there.retains.is_some_and(|limit| limit < RETAINED_ALL) {
            return Ok(Some(()));
        }
        let filter = FilterState::number(n);
        let (retains, unacked) = (there.retains.is_some(), there.late(&topic, &filter));
        let made = self.topic(&topic).and_then(|topic| {
            let builder = topic.subscription(&name).lease(LEASE).backoff(posthouse::Backoff::None);
            let builder = filtered(builder, &filter).ordered_by_key(name == ORDERED);
            builder.start(Start::Earliest).create_new().map(drop)
        });
        if !retains {
            return self.expect(made, ErrorKind::InvalidInput { field: "start" });
        }
        let offsets: Vec<u64> = unacked.keys().copied().collect();
        let done = self.commit(made, |state| {
            let topic = state.topics.get_mut(&topic).unwrap();
            let subscription = SubscriptionState { unacked, filter, ..Default::default() };
            topic.subscriptions.insert(name.clone(), subscription);
        })?;
        let whose = Whose::Subscription(topic, name);
        offsets.into_iter().for_each(|offset| self.bear(&whose, offset, 1));
        Ok(done)
    }

    pub(super) fn change_filter(
        &mut self,
        topic: Name,
        name: Name,
        n: u8,
    ) -> Result<Option<()>, Error> {
        let (topic, name) = (text("topic", topic), text("subscription", name));
        let there = self.now().topics.get(&topic);
        if !there.is_some_and(|it| it.subscriptions.contains_key(&name)) {
            return Ok(Some(()));
        }
        let filter = FilterState::number(n);
        let changed = self.topic(&topic).and_then(|topic| {
            let builder = topic.subscription(&name).without_patterns().without_header_filters();
            filtered(builder, &filter).create_or_update().map(drop)
        });
        self.commit(changed, |state| {
            let topic = state.topics.get_mut(&topic).unwrap();
            topic.subscriptions.get_mut(&name).unwrap().filter = filter;
        })
    }

    pub(super) fn unsubscribe(&mut self, topic: Name, name: Name) -> Result<Option<()>, Error> {
        let (topic, name) = (text("topic", topic), text("subscription", name));
        let there = self.now().topics.get(&topic);
        if !there.is_some_and(|it| it.subscriptions.contains_key(&name)) {
            return Ok(Some(()));
        }
        self.forget_held(|whose| *whose == Whose::Subscription(topic.clone(), name.clone()));
        let gone = self.topic(&topic).and_then(|topic| topic.subscription(&name).delete());
        self.commit(gone, |state| {
            state.topics.get_mut(&topic).unwrap().subscriptions.remove(&name);
        })
    }

    pub(super) fn publish(
        &mut self,
        topic: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("topic", topic);
        let Some(first) = self.now().topics.get(&name).map(|topic| topic.next) else {
            return Ok(Some(()));
        };
        let messages = self.messages(count.clamp(1, 40), bytes);
        let now = self.time;
        let topic = self.topic(&name)?;
        let batch = messages.iter().map(Msg::message);
        let published = match how {
            How::Ticket if messages.len() == 1 => {
                topic.publish_ticket(messages[0].message()).map(|it| *it.value().unwrap())
            }
            _ => topic.durability(durability(how)).publish_batch(batch).map(|range| range.start),
        };
        let how = if how == How::Waited { How::Sync } else { how };
        let Some(offset) = self.commit_as(how, published, |state| {
            state.topics.get_mut(&name).unwrap().publish(&name, &messages, now);
        })?
        else {
            return Ok(None);
        };
        assert_eq!(offset, Offset(first));
        let subscriptions: Vec<String> =
            self.now().topics[&name].subscriptions.keys().cloned().collect();
        for subscription in subscriptions {
            let whose = Whose::Subscription(name.clone(), subscription);
            self.bear(&whose, first, messages.len() as u64);
        }
        Ok(Some(()))
    }

    pub(super) fn publish_brief(
        &mut self,
        topic: Name,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("topic", topic);
        let Some(offset) = self.now().topics.get(&name).map(|topic| topic.next) else {
            return Ok(Some(()));
        };
        let (message, now) = (self.messages(1, bytes).remove(0).brief(), self.time);
        let how = if how == How::Ticket { How::Buffered } else { how };
        let topic = self.topic(&name)?.durability(durability(how));
        let published = topic.publish(message.message());
        let done = self.commit_as(how, published, |state| {
            state.topics.get_mut(&name).unwrap().publish(&name, &[message], now);
        })?;
        for subscription in self.now().topics[&name].subscriptions.clone().into_keys() {
            self.bear(&Whose::Subscription(name.clone(), subscription), offset, 1);
        }
        Ok(done.map(|published| assert_eq!(published, Offset(offset))))
    }

    pub(super) fn publish_to(
        &mut self,
        topic: Name,
        subscription: Name,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let (name, to) = (text("topic", topic), text("subscription", subscription));
        let there = self.now().topics.get(&name);
        let Some(there) = there.filter(|topic| topic.subscriptions.contains_key(&to)) else {
            return Ok(Some(()));
        };
        let (offset, now) = (there.next, self.time);
        let message = self.messages(1, bytes).remove(0);
        let how = if how == How::Ticket { How::Buffered } else { how };
        let subscription = self.subscription(&name, &to)?;
        let published = sim::publish_to(&subscription, message.message(), durability(how));
        let done = self.commit_as(how, published, |state| {
            state.topics.get_mut(&name).unwrap().publish_to(&to, &message, now);
        })?;
        self.bear(&Whose::Subscription(name, to), offset, 1);
        Ok(done.map(|published| assert_eq!(published, Offset(offset))))
    }
}
