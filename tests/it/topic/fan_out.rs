//! Each subscription gets each message.

use std::time::Duration;

use crate::support::everywhere;

#[test]
fn every_subscription_hears_of_all_that_came_after_it() {
    everywhere(|open| {
        let engine = open();
        let topic = engine.topic("t").create().unwrap();
        topic.publish("for nobody").unwrap();
        let early = topic.subscription("early").create().unwrap();
        topic.publish_batch(["1", "2"]).unwrap();
        let late = topic.subscription("late").create().unwrap();
        topic.publish_ticket("3").unwrap().wait().unwrap();
        let all = |subscription: &posthouse::Subscription| -> Vec<String> {
            let text = |d: &posthouse::Delivery| String::from_utf8(d.payload().to_vec()).unwrap();
            let got = subscription.receive_batch(10, Duration::ZERO).unwrap();
            got.iter().for_each(|delivery| delivery.ack().unwrap());
            got.iter().map(text).collect()
        };
        assert_eq!(all(&early), ["1", "2", "3"]);
        assert_eq!(early.depth().unwrap(), 0);
        assert_eq!(late.depth().unwrap(), 1);
        engine.checkpoint().unwrap();
        drop((topic, early, late, engine));
        let topic = open().topic("t").open().unwrap();
        assert!(all(&topic.subscription("early").open().unwrap()).is_empty());
        assert_eq!(all(&topic.subscription("late").open().unwrap()), ["3"]);
    });
}
