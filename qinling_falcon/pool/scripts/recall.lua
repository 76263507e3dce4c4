-- recall: the holder of a busy worker gives it up at its next renew or release.
-- include: workers
-- ARGV    2 worker  3 for how many ms the recall stands; 0 takes it back
-- returns 1; 0: the worker is not leased

if call('HGET', record(ARGV[2]), 'state') ~= 'leased' then return 0 end
if ARGV[3] == '0' then
  call('HDEL', record(ARGV[2]), 'recalled')
else
  call('HSET', record(ARGV[2]), 'recalled', text(now + tonumber(ARGV[3])))
end
return 1
