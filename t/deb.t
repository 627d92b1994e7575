# make deb: the contents of the package, its dependencies, and an nginx that runs with its module.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Cwd qw(abs_path);
use File::Temp qw(tempdir);

my $repository = abs_path("$FindBin::Bin/..");
my $nginx      = Test::Memstat::Configuration::binary();
plan(skip_all => 'this nginx is of no package') if system("dpkg-query -S '$nginx' >/dev/null 2>&1");

# make prepares the source tree of the installed nginx itself.
delete @ENV{qw(NGINX_SOURCE_DIR NGINX_BUILD_DIR)};

# Returns the output of a command.
sub said {
    my @command = @_;
    open my $out, '-|', @command or die "cannot run $command[0]: $!\n";
    my $text = do { local $/; <$out> };
    close $out or die "$command[0] failed\n";
    return $text;
}

my $package = 'libnginx-mod-http-memstat';
my $name    = 'ngx_http_memstat_module.so';
my $version = (read_file("$repository/Cargo.toml") =~ /^version = "(.*)"$/m)[0];
my $arch    = said(qw(dpkg --print-architecture)) =~ s/\n//r;
my $progress = File::Temp->new;
my ($deb) = said('sh', '-c', "make -s -C '$repository' deb 2>'$progress'") =~ m{^(/\S+\Q/${package}_\E\S+\.deb)$}m;
like read_file("$progress"), qr/^build-deb: builds the module, which takes some minutes.*^build-deb: .*Finished/ms, 'it shows its progress';
is $deb, "$repository/build/deb/${package}_$version-1_$arch.deb", 'the package';

# The packaging helper's file has the ABI that modules are built for; nginx's package has what it provides.
my ($abi) = read_file('/usr/share/nginx/src/debian/libnginx-mod.abisubstvars') =~ /^nginx:abi=(\S+)$/m;
like said(qw(dpkg-query -W -f ${Provides} nginx)), qr/\b\Q$abi\E\b/, "the installed nginx provides $abi";
my %field = map { $_ => said('dpkg-deb', '-f', $deb, $_) =~ s/\n\z//r } qw(Package Version Architecture Depends);
is $field{Package},      $package,     'its name';
is $field{Version},      "$version-1", 'its version';
is $field{Architecture}, $arch,        'its architecture';
ok +(grep { $_ eq $abi } split /, /, $field{Depends}), "it depends on $abi" or diag $field{Depends};

my $root = tempdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => 1);
chmod 0755, $root;
said('dpkg-deb', '-x', $deb, $root);
said('dpkg-deb', '-e', $deb, "$root/control");
my $file = 'usr/share/nginx/modules-available/mod-http-memstat.conf';
my $doc  = "usr/share/doc/$package";
ok -s "$root/$_", "it has $_" for "usr/lib/nginx/modules/$name", map { "$doc/$_" }
    qw(copyright changelog.Debian.gz README.Debian README.md.gz doc/reading.md.gz doc/page.png examples/minimal.conf memstat.schema.json.gz);
like `$root/usr/bin/memstat-diff 2>&1`, qr/^usage: memstat-diff/, 'memstat-diff runs';
is read_file("$root/$file"), "load_module modules/$name;\n", "$file loads the module";
is read_file("$root/etc/nginx/snippets/memstat.conf"), read_file("$repository/nginx-conf/memstat.conf"),
    'the location is as in the repository';
is read_file("$root/control/conffiles"), "/etc/nginx/snippets/memstat.conf\n", 'and is a conffile';
like read_file("$root/control/postinst"), qr/mod-http-memstat\.conf:50-mod-http-memstat\.conf/,
    'the link in modules-enabled is made by the helper of nginx-dev';

# The prefix of the configuration has its own modules folder.
mkdir "$root/prefix";
symlink "$root/usr/lib/nginx/modules", "$root/prefix/modules";
my $load = read_file("$root/$file") =~ s{ (?=modules/)}{ $root/prefix/}r;
my $t = Test::Memstat::Server->new(
    module => 0, main_config => $load, config => "include $root/etc/nginx/snippets/memstat.conf;",
)->start;
my $reply = $t->memstat;
is $reply->{module}, $version, 'nginx serves with it';
my ($worker) = process_with($reply, kind => 'worker');
my %hooks = %{ $worker->{hooks} };
is_deeply [ grep { $_ ne 'on' } @hooks{qw(pool slab thread)} ], [], 'the hooks are in place';
is $_, undef, 'nginx ends as told' for $t->stop;

done_testing();
