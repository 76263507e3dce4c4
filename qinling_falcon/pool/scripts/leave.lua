-- leave: a waiter that waits no longer.
-- ARGV    5 waiter's name
-- reads   waiter:<name>      writes  waiter:<name>, waiters, waiting:*, lines, line:<line>
-- returns 1: it was in the queue and is out of it; 0: it was not, so it has been told something already
-- promises  a waiter is granted a worker or leaves, never both

local line = call('HGET', P .. 'waiter:' .. ARGV[5], 'line')
if not line then return 0 end
remove_waiter(ARGV[5], line)
return 1
