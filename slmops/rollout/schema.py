"""The tables of the history of rollouts, as they were first and as they became."""

VERSION = 2
SCHEMA = """
create table if not exists rollout (
    id integer primary key, fleet text not null, release text not null, digest text not null,
    state text not null, wave integer not null, waves integer not null,
    started real not null, changed real not null
);
create table if not exists assignment (
    rollout integer not null references rollout, device text not null, wave integer not null,
    state text not null, slot text, message text not null default '', evidence text not null default '{}',
    changed real not null, primary key (rollout, device)
);
create table if not exists event (
    rollout integer not null references rollout, at real not null, device text, what text not null
);
"""
SECOND = """
alter table rollout add column uid text not null default '';
alter table rollout add column epoch integer not null default 0;
alter table rollout add column operator text not null default '';
alter table rollout add column options text not null default '{}';
alter table assignment add column entered text not null default '{}';
alter table assignment add column doing text not null default '{}';
create index event_of on event (rollout);
create table wish (
    rollout integer not null references rollout, at real not null, who text not null, what text not null
);
create table driver (
    fleet text primary key, rollout integer not null references rollout, epoch integer not null,
    holder text not null, host text not null, pid integer not null, since real not null, until real not null
);
create table device_key (
    fleet text not null, device text not null, key text not null, primary key (fleet, device)
);
"""
"""What came with the second version of the schema; files of the first are brought up to it."""
