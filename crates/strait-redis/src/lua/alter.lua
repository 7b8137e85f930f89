-- Changes what an operator has set, unless somebody else was quicker.
-- KEYS: group, what holds keys ..   ARGV: what is set as the caller saw it, what is to be set, 1 to let go of the keys
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'gone'
end
if (redis.call('HGET', KEYS[1], 'overrides') or '') ~= ARGV[1] then
  return 'other'
end
redis.call('HSET', KEYS[1], 'overrides', ARGV[2])
changed(KEYS[1])
if ARGV[3] == '1' then
  redis.call('DEL', unpack(KEYS, 2))
end
return 'done'
