-- note_server: runs first on every new connection. Finds out whether this is another server, or one that was restarted
--              and may have lost its last writes. Generations could then have older values, and entries could be
--              missing.
-- ARGV    2 run id of the server
-- reads   server, holders
-- writes  server, former, holders, generations, reaper
-- promises  After a restart, no old generation is left. The next heartbeat of each process tells it that it was not
--           known, so its calls ask again. No holder counts as dead before it could report.

if call('GET', P .. 'server') ~= ARGV[2] then
  call('SET', P .. 'server', ARGV[2])
  call('DEL', P .. 'generations', P .. 'reaper')
  local holders = call('ZRANGE', P .. 'holders', 0, -1)
  for _, holder in ipairs(holders) do call('ZADD', P .. 'former', now, holder) end
  call('DEL', P .. 'holders')
end
return 1
