-- drain_workers: drains these workers. A leased worker drains after its call.
-- ARGV    2 the reason, for the operator  3… workers
-- reads   worker:<id>
-- writes  starting:<runtime>; for each worker what drain writes

for at = 3, #ARGV do
  local runtime = call('HGET', record(ARGV[at]), 'runtime')
  if runtime and call('HGET', record(ARGV[at]), 'state') == 'starting' then
    call('ZREM', P .. 'starting:' .. runtime, ARGV[at])
    put_draining(ARGV[at], runtime)
  else
    drain(ARGV[at], 'ended', ARGV[2])
  end
end
return 1
