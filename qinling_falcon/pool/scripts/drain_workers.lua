-- drain_workers: these workers get no further call; those that are leased end after their call.
-- include: limits workers queues leases
-- ARGV    2… workers

for at = 2, #ARGV do
  local runtime = call('HGET', record(ARGV[at]), 'runtime')
  if runtime and call('HGET', record(ARGV[at]), 'state') == 'starting' then
    call('ZREM', P .. 'starting:' .. runtime, ARGV[at])
    put_draining(ARGV[at], runtime)
  else
    drain(ARGV[at], 'ended', 'the runtime has another image')
  end
end
return 1
