-- limits: how many leases a function, a project and a runtime may have, and how many they have.
--
-- The hash `concurrency` has the limits (written by the manager), a function's own limit (written by lease) and the
-- counts, so that one command reads all that a lease needs. A count of 0 may stay; `sweep` removes it.

local CONCURRENCY = P .. 'concurrency'
local UNLIMITED = 1e9  -- also before the manager has written the limits

-- The limits and counts of a function, its project and its runtime.
local function read_counts(function_id, project_id, runtime)
  local is = call('HMGET', CONCURRENCY, 'limit function', 'limit project', 'limit runtime', 'own ' .. function_id,
    'function ' .. function_id, 'project ' .. project_id, 'runtime ' .. runtime)
  local of_function = tonumber(is[1]) or UNLIMITED
  local own = tonumber(is[4]) or of_function
  return {
    own = is[4],
    function_limit = math.min(own, of_function), project_limit = tonumber(is[2]) or UNLIMITED,
    runtime_limit = tonumber(is[3]) or UNLIMITED,
    functions = tonumber(is[5]) or 0, projects = tonumber(is[6]) or 0, runtimes = tonumber(is[7]) or 0,
  }
end

-- Whether one more lease keeps all limits.
local function is_below(counts)
  return counts.functions < counts.function_limit and counts.projects < counts.project_limit
    and counts.runtimes < counts.runtime_limit
end

-- Whether no limit is exceeded by the leases that there are. A limit can be lowered below its count.
local function is_kept(counts)
  return counts.functions <= counts.function_limit and counts.projects <= counts.project_limit
    and counts.runtimes <= counts.runtime_limit
end

local function count_leases(counts, by, function_id, project_id, runtime)
  counts.functions, counts.projects = counts.functions + by, counts.projects + by
  counts.runtimes = counts.runtimes + by
  call('HSET', CONCURRENCY, 'function ' .. function_id, counts.functions, 'project ' .. project_id, counts.projects,
    'runtime ' .. runtime, counts.runtimes)
end
