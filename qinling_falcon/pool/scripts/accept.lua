-- accept: a process's answer to grants that its waiters got. An accepted lease gets its real deadline.
-- ARGV    5… pairs of (worker, token)
-- reads   worker:<id>      writes  worker:<id>, leases
-- returns for each pair 1: it is the waiter's, 0: too late, it has passed on
-- promises  a grant is accepted or passed on, never both

local answers = {}
for at = 5, #ARGV, 2 do
  local key = P .. 'worker:' .. ARGV[at]
  local is = call('HMGET', key, 'state', 'token', 'accepted', 'run_ms')
  if is[1] == 'leased' and is[2] == ARGV[at + 1] and is[3] == '0' then
    call('HSET', key, 'accepted', '1', 'granted', text(now))
    call('ZADD', LEASES, now + tonumber(is[4]), ARGV[at])
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
