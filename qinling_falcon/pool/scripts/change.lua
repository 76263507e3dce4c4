-- change: marks a what as changing, or ends the change with a new generation.
-- ARGV    5 what  6 the new random generation, or empty: the change begins
-- reads   nothing      writes  generations
-- promises  while the mark stands (for a minute at most) nobody caches the what

call('HSET', GENERATIONS, ARGV[5], ARGV[6] ~= '' and ARGV[6] or 'changing ' .. text(now + CHANGING_MS))
return 1
